"""Starts processes pinned to one core and reads their CPU time and memory from /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import TICKS_PER_S

STOP_GRACE_S = 5.0


class BenchmarkError(Exception):
    """The benchmark cannot go on; a figure from it would be false."""


def stop_cleanly_on_sigterm() -> None:
    """SIGTERM ends the benchmark as Ctrl-C does, so that the servers which it started are stopped."""

    def on_signal(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, on_signal)


@dataclass
class Pinned:
    """One process (with its children) on its core. Its output goes to `log`."""

    name: str
    argv: Sequence[str]
    core: int | str
    """One core, or a list as taskset takes it."""
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> Pinned:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(self.core), *self.argv],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.env},
                cwd=self.cwd,
            )
        return self

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BenchmarkError(f"{self.name} was not started")
        return self._process.pid

    def check_alive(self) -> None:
        """Raises BenchmarkError with the end of the log when the process has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise BenchmarkError(f"{self.name} ended with {self._process.returncode}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Terminates the process; kills it and its children when it has not ended after the grace time."""
        if self._process is None or self._process.poll() is not None:
            return
        family = family_of(self.pid)
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            for pid in family:
                kill_quietly(pid)
            self._process.wait()


def kill_quietly(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def family_of(pid: int) -> list[int]:
    """The process and its descendants that are alive."""
    family, queue = [], [pid]
    while queue:
        one = queue.pop()
        family.append(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                queue.extend(int(child) for child in task.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return family


def cpu_s(pids: Sequence[int]) -> float:
    """User and system CPU seconds of processes and their descendants so far."""
    ticks = 0
    for root in pids:
        for pid in family_of(root):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def rss_kib(pid: int) -> int:
    """Resident memory of one process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise BenchmarkError(f"process {pid} has no memory: it has ended")


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(process: Pinned, port: int, timeout_s: float) -> None:
    """Returns when something listens on `port`. Raises BenchmarkError when the process ends or time is up."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        process.check_alive()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchmarkError(
        f"{process.name} did not listen on {port} within {timeout_s} s:\n{process.log_tail()}"
    )
