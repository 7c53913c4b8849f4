"""What can be killed, and what it takes until it is back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from servers import Postgres, Redis
from sextant.base.lifeline import PARENT_VARIABLE
from stack_under_test import Stack, alive, free_port, listening, until

BACK_WITHIN_S = 60.0
TESTS = Path(__file__).parents[1]


class Shared(msgspec.Struct):
    """Real PostgreSQL and Redis for a deployment that keeps its books and limits there."""

    postgres: Postgres
    redis: Redis

    @classmethod
    def start(cls) -> Shared:
        """Redis writes each change to its disk at once, as PostgreSQL does."""
        servers = cls(Postgres(), Redis(durable=True))
        servers.postgres.start()
        servers.redis.start()
        return servers

    def stop(self) -> None:
        self.postgres.remove()
        self.redis.remove()


class FastEngine:
    """`fake_fast_engine.py` in a process of its own, always on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crash.fake_fast_engine", str(self.port)],
            cwd=TESTS,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
                PARENT_VARIABLE: str(os.getpid()),
            },
        )
        until(lambda: listening(self.port), "the fast engine listens")

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


def kill_member(up: Stack, *kinds: str) -> None:
    """`kill -9` of every process of those kinds, all at once; returns when they are back and it serves."""
    victims = [process for process in up.status()["processes"] if process["kind"] in kinds and process["pid"]]
    assert victims, f"nothing of {kinds} runs"
    for process in victims:
        os.kill(process["pid"], signal.SIGKILL)

    def back() -> bool:
        now = up.processes()
        return all(
            now[process["name"]]["restarts"] > process["restarts"]
            and now[process["name"]]["state"] == "ready"
            for process in victims
        )

    until(back, f"{'+'.join(kinds)} is ready again", BACK_WITHIN_S)
    wait_ready(up)


def kill_host(up: Stack) -> None:
    """`kill -9` of the supervisor, with which all that it had started dies; then it is started again."""
    assert up.process is not None
    pids = up.pids()
    up.process.kill()
    up.process.wait(10)
    until(lambda: not any(alive(pid) for pid in pids), "its children have died with it")
    up.start().wait_serving()
    wait_ready(up)


def wait_ready(up: Stack) -> None:
    """Returns when requests are taken."""

    def ready() -> bool:
        try:
            return up.ask("GET", "/ready").status == 200
        except OSError:
            return False

    until(ready, "the gateway takes requests", BACK_WITHIN_S)
