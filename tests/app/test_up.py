"""`sextant up` as a user runs it: serves, survives the death of any part, leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack_under_test import SEXTANT, Stack, alive, listening, sextant, stack, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def up() -> Iterator[Stack]:
    """One stack for the tests that leave it as it was."""
    with stack() as made:
        yield made


def test_first_start_says_what_to_do_next(up: Stack) -> None:
    said = up.said()
    key = re.search(r"API key\s+(sk-\w+)", said)
    admin = re.search(r"Admin credential\s+(sxadmin-\w+)", said)
    assert key and admin
    assert f"http://127.0.0.1:{up.port}/v1" in said
    assert re.search(r"sextant chat --state \S+", said)
    assert re.search(r"started in \d+\.\d s", said)
    curl = next(line.strip() for line in said.splitlines() if line.strip().startswith("curl "))
    body = json.loads(curl.partition("-d '")[2].rstrip("'"))
    answer = up.ask("POST", "/v1/chat/completions", body, Authorization=f"Bearer {key[1]}")
    assert "579" in answer.json()["choices"][0]["message"]["content"]
    assert up.ask("GET", "/v1/status", port=up.control_port, Authorization=f"Bearer {admin[1]}").status == 200
    assert not (up.root / "secrets" / "first-run").exists()


def test_everything_is_private(up: Stack) -> None:
    for path in up.root.rglob("*"):
        mode = path.lstat().st_mode & 0o777
        assert mode & 0o077 == 0, f"{path} has mode {mode:o}"


def test_no_secret_is_in_a_log_or_on_a_command_line(up: Stack) -> None:
    up.chat()
    secrets = [path.read_text().strip() for path in (up.root / "secrets").iterdir()]
    for log in (up.root / "logs").iterdir():
        assert not any(secret in log.read_text(errors="replace") for secret in secrets), log
    for pid in up.pids():
        line = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert not any(secret.encode() in line for secret in secrets)


def test_a_second_one_is_refused_with_the_way_out(up: Stack) -> None:
    done = sextant("up", "--state", str(up.root))
    assert done.returncode == 1
    assert f"process {up.status()['pid']}" in done.stderr
    assert f"serving http://127.0.0.1:{up.port}" in done.stderr
    assert "sextant down" in done.stderr


def test_a_taken_port_is_named(up: Stack, tmp_path: Path) -> None:
    for flag, port in (("--port", up.port), ("--control-port", up.control_port)):
        done = sextant("up", "--state", str(tmp_path / "s"), flag, str(port))
        assert done.returncode == 1
        assert f"port {port} on 127.0.0.1 is taken by" in done.stderr
        assert f"{flag} PORT" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["ledger", "engine", "gateway", "control"])
def test_each_part_is_started_again(up: Stack, kind: str) -> None:
    before = next(process for process in up.status()["processes"] if process["kind"] == kind)
    os.kill(before["pid"], signal.SIGKILL)

    until_served_again(up, before)
    assert up.chat().status == 200
    assert up.ask("GET", "/v1/status", port=up.control_port).json()["ready"]


def until_served_again(up: Stack, before: dict[str, Any]) -> None:
    """Waits for the next life of a process that was `before`, and for an answer from an engine."""

    def back() -> bool:
        now = up.processes()[before["name"]]
        return now["restarts"] > before["restarts"] and now["state"] == "ready"

    until(back, f"{before['name']} is ready again")
    until(lambda: up.chat().status == 200, "the gateway serves")


def test_a_dead_engine_is_told_within_a_second(up: Stack) -> None:
    engine = up.engine()
    os.kill(engine["pid"], signal.SIGSTOP)  # keeps it from coming back too soon to be seen
    try:
        routes = up.root / "run" / "routes.json"
        version = json.loads(routes.read_bytes())["version"]
        os.kill(engine["pid"], signal.SIGKILL)
        killed = time.monotonic()
        told = until(lambda: _unready(routes, version), "routes.json says so", 5)
        assert time.monotonic() - killed < 1.0
        assert "SIGKILL" in told
    finally:
        until_served_again(up, engine)


def _unready(routes: Path, version: int) -> str:
    table = json.loads(routes.read_bytes())
    upstream = table["models"][0]["upstreams"][0]
    return str(upstream["reason"]) if table["version"] > version and not upstream["ready"] else ""


def test_a_stream_under_way_ends_in_an_error_when_the_engine_dies(up: Stack) -> None:
    def kill_soon() -> None:
        assert started.wait(20)
        os.kill(engine["pid"], signal.SIGKILL)

    engine = up.engine()

    started = threading.Event()
    killer = threading.Thread(target=kill_soon)
    killer.start()
    body = json.dumps(
        {
            "model": "sextant-nano",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "ignore_eos": True,
            "temperature": 1.9,
            "max_tokens": 3000,
        }
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {up.key}\r\n"
        f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", up.port), timeout=30) as client:
        client.sendall(f"{head}{body}".encode())
        received = b""
        while piece := client.recv(65536):
            received += piece
            if received.count(b"data: ") > 3:
                started.set()
    killer.join()
    assert b'"error"' in received
    assert b'"finish_reason":"stop"' not in received
    until_served_again(up, engine)


def test_a_made_key_works_within_a_second_and_a_revoked_one_does_not(up: Stack) -> None:
    made = json.loads(sextant("key", "create", "--json", "--state", str(up.root)).stdout)
    assert set(made) == {"id", "key"}

    def status() -> int:
        return up.ask("GET", "/v1/models", Authorization=f"Bearer {made['key']}").status

    until(lambda: status() == 200, "the new key works", 1.0)
    assert sextant("key", "revoke", made["id"], "--state", str(up.root)).returncode == 0
    until(lambda: status() == 401, "the revoked key is refused", 1.0)


def test_sigterm_leaves_nothing() -> None:
    with stack() as made:
        pids = made.pids()
        assert made.stop() == 0
        assert not any(alive(pid) for pid in pids)
        assert list((made.root / "run").iterdir()) == []
        assert not listening(made.port)
        assert "Stopped." in made.said()


def test_ctrl_c_lets_a_request_under_way_end() -> None:
    with stack() as made:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(made.chat(ignore_eos=True, max_tokens=700)))
        asking.start()
        until(
            lambda: "sextant_gateway_requests_in_progress 1.0" in made.ask("GET", "/metrics").body.decode(),
            "the request is under way",
        )
        assert made.stop(signal.SIGINT) == 0
        asking.join()
        assert answers[0].status == 200
        assert answers[0].json()["usage"]["completion_tokens"] == 700


def test_kill_nine_of_the_supervisor_leaves_no_process_and_the_next_start_works() -> None:
    with stack() as made:
        pids = made.pids()
        assert len(pids) == 4
        made.stop(signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in pids), "all children are gone", 5)
        # a killed leader is a zombie already while its other threads still hold the socket
        until(lambda: not listening(made.port), "nothing listens", 5)
        assert (made.root / "run" / "routes.json").exists()  # stale, and no matter
        made.start().wait_serving()
        assert made.chat().status == 200
        assert "API key  " not in made.said()
        assert "key create" in made.said()
        made.stop()


def test_a_closed_terminal_does_not_end_a_stack_that_was_told_to_stay(tmp_path: Path) -> None:
    """With SIGHUP ignored, as `nohup` does it: a part that dies later is started again all the same."""
    master, slave = pty.openpty()
    made = Stack(tmp_path / "s")
    made.process = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *SEXTANT, "up", *made.arguments],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        text=True,
        start_new_session=True,
        env={**os.environ, "SEXTANT_PARENT_PID": str(os.getpid())},
    )
    os.close(slave)
    try:
        until((made.root / "run" / "status.json").exists, "it starts")
        until(lambda: all(p["state"] == "ready" for p in made.status()["processes"]), "it serves")
        os.close(master)
        made.process.send_signal(signal.SIGHUP)
        engine = made.engine()
        os.kill(engine["pid"], signal.SIGKILL)
        until_served_again(made, engine)
        assert made.stop() == 0
    finally:
        made.kill()


def test_detached_and_down() -> None:
    with stack() as plain:
        plain.stop()
        done = sextant("up", "--detach", *plain.arguments)
        assert done.returncode == 0, done.stderr
        assert "Stop it: " in done.stdout
        assert plain.chat().status == 200
        pids = plain.pids()
        status = sextant("status", "--json", "--state", str(plain.root))
        assert json.loads(status.stdout)["ready"] is True
        down = sextant("down", "--state", str(plain.root))
        assert (down.returncode, down.stdout) == (0, "Stopped.\n")
        assert not any(alive(pid) for pid in pids)


def test_a_failed_detached_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = sextant("up", "--detach", "--state", str(tmp_path / "s"), "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr
