"""A real stack on loopback for tests: `sextant up` as a user starts it, in a state directory of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from sextant.base.lifeline import PARENT_VARIABLE

SEXTANT = (sys.executable, "-m", "sextant.cli.main")
START_TIMEOUT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """The first true value of `condition`; fails the test when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Stack:
    """One `sextant up`. `root` is the state directory."""

    def __init__(
        self,
        root: Path,
        *arguments: str,
        document: Path | None = None,
        program: Sequence[str] = SEXTANT,
    ) -> None:
        self.root = root
        self.program = program
        self.port, self.control_port = free_port(), free_port()
        self.arguments = [
            *([str(document)] if document else []),
            f"--state={root}",
            f"--port={self.port}",
            f"--control-port={self.control_port}",
            *arguments,
        ]
        self.process: subprocess.Popen[str] | None = None
        self.out_file: IO[str] | None = None

    def start(self) -> Stack:
        self.close_output()
        self.out_file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the stack
        self.process = subprocess.Popen(
            [*self.program, "up", *self.arguments], stdout=self.out_file, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},  # however the test ends, so does the stack
        )  # fmt: skip
        return self

    def close_output(self) -> None:
        if self.out_file is not None:
            self.out_file.close()

    def said(self) -> str:
        assert self.out_file is not None
        descriptor = self.out_file.fileno()  # its offset is the writer's too, so it is left alone
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()

    def wait_serving(self) -> Stack:
        def serving() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"up ended with {self.process.returncode}:\n{self.said()}")
            return "Stop it:" in self.said()

        until(serving, "the stack serves", START_TIMEOUT_S)
        return self

    @property
    def key(self) -> str:
        return (self.root / "secrets" / "local-cli").read_text()

    @property
    def admin(self) -> str:
        return (self.root / "secrets" / "admin").read_text()

    def status(self) -> dict[str, Any]:
        return json.loads((self.root / "run" / "status.json").read_bytes())

    def processes(self) -> dict[str, dict[str, Any]]:
        return {process["name"]: process for process in self.status()["processes"]}

    def engine(self) -> dict[str, Any]:
        return next(process for process in self.status()["processes"] if process["kind"] == "engine")

    def pids(self) -> list[int]:
        return [process["pid"] for process in self.status()["processes"] if process["pid"]]

    def ask(
        self, method: str, path: str, body: Any = None, *, port: int | None = None, **headers: str
    ) -> Answer:
        """One request to the API (or, with `port`, to the admin API)."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)
        try:
            payload = None if body is None else json.dumps(body)
            secret = self.key if port is None else self.admin
            all_headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json", **headers}
            connection.request(method, path, payload, all_headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), dict(answer.getheaders()))
        finally:
            connection.close()

    def chat(self, text: str = "hi", **fields: Any) -> Answer:
        body = {
            "model": "sextant-nano",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 8,
            **fields,
        }
        return self.ask("POST", "/v1/chat/completions", body)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self) -> None:
        """Ends whatever is left, so that a failing test leaves nothing behind."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.close_output()


class Answer:
    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.status, self.body, self.headers = status, body, headers

    def json(self) -> Any:
        return json.loads(self.body)


@contextlib.contextmanager
def stack(*arguments: str, document: Path | None = None, root: Path | None = None) -> Iterator[Stack]:
    """A started stack that serves; killed afterwards if the test did not stop it."""
    with tempfile.TemporaryDirectory(prefix="sx-") as folder:
        made = Stack(root or Path(folder) / "state", *arguments, document=document)
        try:
            yield made.start().wait_serving()
        finally:
            made.kill()


def sextant(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    return subprocess.run(
        [*SEXTANT, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )
