"""Several gateway workers on one host, and several hosts over one PostgreSQL and one Redis: real stacks."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from servers import PASSWORD, Postgres, Redis
from stack_under_test import Stack, alive, sextant, stack, until

pytestmark = pytest.mark.slow

HEAD = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {name: replicas}
spec:
  model: {name: sextant-nano}
  engine: {kind: embedded, slots: 2, threads: 1}
"""
BURST = 5


@pytest.fixture
def document(tmp_path: Path) -> Callable[[str], Path]:
    def write(rest: str) -> Path:
        path = tmp_path / "document.yaml"
        path.write_text(HEAD + rest)
        return path

    return write


def limited_key(of: Stack) -> str:
    """A key for a burst of requests, and hardly one after it."""
    limits = ("--limit", "requests_per_s=0.001", "--limit", f"burst_requests={BURST}")
    done = sextant("key", "create", "--name", "limited", *limits, "--json", f"--state={of.root}")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["key"])


def ask(of: Stack, key: str) -> int:
    body = {"model": "sextant-nano", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return of.ask("POST", "/v1/chat/completions", body, Authorization=f"Bearer {key}").status


def _answers(of: Stack) -> bool:
    """A killed process may take connections until the last of its threads has ended."""
    with contextlib.suppress(ConnectionError):
        return of.chat().status == 200
    return False


def burst(key: str, *stacks: Stack, calls: int = 40) -> collections.Counter[int]:
    """How often each status came of parallel calls, spread over the stacks."""
    with concurrent.futures.ThreadPoolExecutor(calls) as pool:
        return collections.Counter(
            pool.map(lambda number: ask(stacks[number % len(stacks)], key), range(calls))
        )


def test_workers_share_a_port_and_every_limit(
    redis_server: Redis, document: Callable[[str], Path], tmp_path: Path
) -> None:
    rest = f"  gateway: {{workers: 2}}\n  limits: {{url: '{redis_server.url}', lease_s: 1}}\n"
    with stack(document=document(rest), root=tmp_path / "s") as one:
        workers = [process for name, process in one.processes().items() if name.startswith("gateway-")]
        assert [worker["state"] for worker in workers] == ["ready", "ready"]
        assert burst(limited_key(one), one) == {200: BURST, 429: 40 - BURST}
        _says_what_all_workers_did(one)
        os.kill(workers[0]["pid"], signal.SIGKILL)
        until(lambda: not alive(workers[0]["pid"]), "the worker is dead")
        until(lambda: _answers(one), "the other one answers", 5)
        until(
            lambda: all(
                process["state"] == "ready" and process["pid"] != workers[0]["pid"]
                for process in one.processes().values()
            ),
            "the worker is back",
        )
        assert burst(limited_key(one), one) == {200: BURST, 429: 40 - BURST}
        assert one.stop() == 0


def _says_what_all_workers_did(one: Stack) -> None:
    def answered() -> float:
        lines = one.ask("GET", "/metrics").body.decode().splitlines()
        wanted = 'endpoint="chat.completions",status="429"'
        return sum(float(line.rpartition(" ")[2]) for line in lines if wanted in line)

    until(lambda: answered() == 40 - BURST, "the metrics of both workers add up")
    text = one.ask("GET", "/metrics").body.decode()
    assert 'worker="1"' in text
    assert 'worker="2"' in text
    heads = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads))


def test_two_hosts_with_books_of_their_own_do_not_share_limits(
    redis_server: Redis, document: Callable[[str], Path], tmp_path: Path
) -> None:
    shared = f"  limits: {{url: '{redis_server.url}', lease_s: 1"
    with stack(document=document(shared + "}\n"), root=tmp_path / "a") as one:
        with (
            pytest.raises(AssertionError, match="those of other books"),
            stack(document=document(shared + "}\n"), root=tmp_path / "b"),
        ):
            pass
        with stack(document=document(shared + ", name: mine}\n"), root=tmp_path / "c") as other:
            assert burst(limited_key(other), other) == {200: BURST, 429: 40 - BURST}
        assert burst(limited_key(one), one) == {200: BURST, 429: 40 - BURST}


def test_two_hosts_share_books_keys_and_limits(
    postgres: Postgres,
    database: str,
    redis_server: Redis,
    document: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOOKS_PASSWORD", PASSWORD)
    url = database.replace(f":{PASSWORD}", "")
    file = document(
        f"  store: {{url: '{url}', password: 'env:BOOKS_PASSWORD'}}\n"
        f"  limits: {{url: '{redis_server.url}', lease_s: 1}}\n"
    )
    with stack(document=file, root=tmp_path / "a") as one, stack(document=file, root=tmp_path / "b") as other:
        key = limited_key(one)
        until(lambda: ask(other, key) in (200, 429), "the other host knows the key")
        came = burst(key, one, other)
        assert came[200] == BURST - 1
        assert came[200] + came[429] == 40
        for host in (one, other):
            rows = json.loads(sextant("usage", "--json", "--by", "day", f"--state={host.root}").stdout)
            assert sum(row["requests"] for row in rows) == BURST
        assert PASSWORD not in (tmp_path / "a" / "store.json").read_text()
        for written in (tmp_path / "a" / "run").iterdir():
            assert written.is_socket() or PASSWORD not in written.read_text()
        assert (one.stop(), other.stop()) == (0, 0)
    assert postgres.sql("SELECT count(*) FROM ledger.usage", url.rpartition("/")[2]) == str(BURST)


def test_redis_away_is_told_and_the_stack_comes_back_by_itself(
    redis_server: Redis, document: Callable[[str], Path], tmp_path: Path
) -> None:
    rest = f"  limits: {{url: '{redis_server.url}', lease_s: 1, timeout_s: 0.3}}\n"
    with stack(document=document(rest), root=tmp_path / "s") as one:
        key = limited_key(one)
        until(lambda: ask(one, key) == 200, "the key is known")
        redis_server.kill()
        began = time.monotonic()
        assert ask(one, key) == 503
        assert time.monotonic() - began < 2
        ready = one.ask("GET", "/ready")
        assert ready.status == 503
        assert any("limits cannot be checked in Redis" in reason for reason in ready.json()["reasons"])
        assert one.chat().status == 200  # nothing limits this key
        redis_server.start()
        until(lambda: one.ask("GET", "/ready").status == 200, "the gateway is ready again")
        assert ask(one, key) == 200
        assert one.stop() == 0


def test_a_start_without_its_secrets_says_which(
    document: Callable[[str], Path], private_redis: Callable[..., Redis], tmp_path: Path
) -> None:
    server = private_redis(password="right")
    rest = f"  limits: {{url: '{server.url}', password: 'env:NOT_SET_ANYWHERE'}}\n"
    done = sextant("up", str(document(rest)), f"--state={tmp_path / 's'}")
    assert done.returncode != 0
    assert "NOT_SET_ANYWHERE is not set" in done.stderr + done.stdout
    done = sextant(
        "up",
        str(document(rest)),
        f"--state={tmp_path / 's'}",
        env={**os.environ, "NOT_SET_ANYWHERE": "wrong"},
    )
    assert done.returncode != 0
    assert "does not accept" in done.stderr + done.stdout


def test_books_do_not_move_by_themselves(document: Callable[[str], Path], tmp_path: Path) -> None:
    state = tmp_path / "s"
    with stack(document=document(""), root=state) as one:
        assert one.stop() == 0
    done = sextant("up", str(document("  store: {url: 'postgresql://a@127.0.0.1/b'}\n")), f"--state={state}")
    assert done.returncode != 0
    assert "do not move by themselves" in " ".join((done.stderr + done.stdout).split())
