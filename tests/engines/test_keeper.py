"""The keeper: whatever an engine's processes do, and whoever is killed, none of them is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sextant.base.lifeline import PARENT_VARIABLE
from sextant.engines.keeper import INNER_MARGIN_S, descendants, kept

FAKE = str(Path(__file__).with_name("fake_engine.py"))
MARK = "KEEPER_TEST"
TREES = [
    ("alone",),
    ("child", "child"),
    ("session",),
    ("orphan",),
    ("escaped", "escaped"),
    ("headless",),
    ("child", "session", "orphan", "escaped", "stubborn"),
]
trees = pytest.mark.parametrize("tree", TREES, ids="-".join)
CLEAR_S = 5.0


class Kept:
    """A keeper over a fake engine. Every process of its tree carries a mark, by which they are counted."""

    def __init__(self, *modes: str, grace_s: float = 30.0, command: list[str] | None = None) -> None:
        self.mark = f"{MARK}={uuid.uuid4().hex}"
        argv = kept(command or [sys.executable, FAKE, *modes], grace_s=grace_s)
        self.process = self.start(argv)

    def start(self, argv: tuple[str, ...]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, PARENT_VARIABLE: str(os.getpid()), MARK: self.mark.partition("=")[2]},
        )

    def wait_ready(self) -> Kept:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def living(self) -> list[int]:
        """The processes that carry the mark, the keepers too, wherever in the system they hang by now."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                    if state not in "ZX" and self.mark.encode() in (folder / "environ").read_bytes():
                        found.append(int(folder.name))
        return found

    def wait_living(self, count: int, within_s: float = CLEAR_S) -> None:
        """Until so many live: an orphan's parent may be seen while it ends."""
        until_s = time.monotonic() + within_s
        while len(living := self.living()) != count:
            assert time.monotonic() < until_s, f"{living} live, expected {count}"
            time.sleep(0.01)

    @property
    def inner(self) -> int:
        return descendants(self.process.pid)[0]

    @property
    def engine(self) -> int:
        return descendants(self.inner)[0]

    def assert_nothing_left(self, within_s: float = CLEAR_S) -> None:
        until_s = time.monotonic() + within_s
        while left := self.living():
            assert time.monotonic() < until_s, f"processes {left} are left"
            time.sleep(0.01)

    def close(self) -> None:
        for pid in self.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@contextlib.contextmanager
def keeping(*modes: str, grace_s: float = 30.0, command: list[str] | None = None) -> Iterator[Kept]:
    made = Kept(*modes, grace_s=grace_s, command=command)
    try:
        yield made
    finally:
        made.close()


def size_of(tree: tuple[str, ...]) -> int:
    """Two keepers, the first process, and what the modes start."""
    return 3 + sum(mode not in ("alone", "stubborn") for mode in tree)


@trees
def test_asked_to_end_it_leaves_nothing(tree: tuple[str, ...]) -> None:
    with keeping(*tree, grace_s=0.3) as one:
        one.wait_ready().wait_living(size_of(tree))
        one.process.terminate()
        status = one.process.wait(CLEAR_S)
        assert one.living() == []  # at once: whoever sees the keeper end may start the next engine
        assert status == -(signal.SIGKILL if "stubborn" in tree else signal.SIGTERM)


@trees
@pytest.mark.parametrize("victim", ["outer", "group", "inner", "engine"])
def test_kill_9_leaves_nothing(tree: tuple[str, ...], victim: str) -> None:
    with keeping(*tree) as one:
        one.wait_ready().wait_living(size_of(tree))
        if victim == "group":
            os.killpg(one.process.pid, signal.SIGKILL)
        else:
            pid = {"outer": one.process.pid, "inner": one.inner, "engine": one.engine}[victim]
            os.kill(pid, signal.SIGKILL)
        assert one.process.wait(CLEAR_S) == -signal.SIGKILL
        one.assert_nothing_left()


@trees
def test_a_killed_parent_leaves_nothing(tree: tuple[str, ...]) -> None:
    class Orphaned(Kept):
        def start(self, argv: tuple[str, ...]) -> subprocess.Popen[str]:
            supervisor = (
                "import os, subprocess, sys, time; "
                "subprocess.Popen(sys.argv[1:], env={**os.environ, "
                f"{PARENT_VARIABLE!r}: str(os.getpid())}}); "
                "time.sleep(1000)"
            )
            return super().start((sys.executable, "-c", supervisor, *argv))

    one = Orphaned(*tree)
    try:
        one.wait_ready().wait_living(size_of(tree) + 1)
        one.process.kill()
        one.assert_nothing_left(within_s=2.0)  # no grace period: nobody is left who would wait for it
    finally:
        one.close()


@trees
def test_what_an_ended_engine_leaves_behind_is_cleared(tree: tuple[str, ...]) -> None:
    with keeping(*tree, "exit", "7") as one:
        one.wait_ready()
        assert one.process.wait(CLEAR_S) == 7
        assert one.living() == []


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM])
def test_the_exit_status_is_the_engines(number: signal.Signals) -> None:
    with keeping("die", str(int(number))) as one:
        assert one.process.wait(CLEAR_S) == -number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_engine_that_ends_in_order_is_not_killed(number: signal.Signals) -> None:
    with keeping("polite", "child") as one:
        one.wait_ready()
        one.process.send_signal(number)
        assert one.process.wait(CLEAR_S) == 3
        assert one.living() == []


def test_a_second_wish_to_end_does_not_move_the_deadline() -> None:
    with keeping("stubborn", grace_s=1.0) as one:
        one.wait_ready()
        asked_s = time.monotonic()
        while one.process.poll() is None and time.monotonic() < asked_s + 4 * (1.0 + INNER_MARGIN_S):
            one.process.terminate()
            time.sleep(0.1)
        assert one.process.returncode == -signal.SIGKILL
        assert 0.9 < time.monotonic() - asked_s < 1.0 + INNER_MARGIN_S + 1.0


def test_processes_that_keep_coming_are_cleared() -> None:
    with keeping("replace", "stubborn", grace_s=0.2) as one:
        one.wait_ready()
        one.process.terminate()
        assert one.process.wait(CLEAR_S) == -signal.SIGKILL
        assert one.living() == []


def test_a_program_that_is_not_there_is_named() -> None:
    with keeping(command=["no-such-engine", "serve"]) as one:
        _, said = one.process.communicate(timeout=CLEAR_S)
        assert one.process.returncode == 127
        assert said == (
            "sextant: the engine's program 'no-such-engine' cannot be started: No such file or directory; "
            "install it, or name the right one as spec.engine.command\n"
        )


def test_the_engine_gets_an_ordinary_environment() -> None:
    script = f"grep -E '^(SigBlk|SigIgn)' /proc/self/status; echo parent ${{{PARENT_VARIABLE}:-unset}}"
    with keeping(command=["sh", "-c", script]) as one:
        heard, said = one.process.communicate(timeout=CLEAR_S)
        assert said == ""
        lines = [line.split() for line in heard.splitlines()]
        ignored = int(lines[1][1], 16)  # others may be inherited from whoever runs the tests
        assert not [number for number in (signal.SIGPIPE, signal.SIGXFSZ) if ignored >> (number - 1) & 1]
        assert [lines[0], lines[2]] == [["SigBlk:", "0" * 16], ["parent", "unset"]]


@pytest.mark.parametrize(
    "arguments",
    [[], ["sleep", "1"], ["--"], ["--grace-s", "x", "--", "true"], ["--grace-s", "-1", "--", "true"]],
)
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    ran = subprocess.run(
        [*kept([])[:3], *arguments], capture_output=True, text=True, timeout=CLEAR_S, check=False
    )
    assert ran.returncode == os.EX_USAGE
    assert "--grace-s SECONDS -- PROGRAM" in ran.stderr
    assert ran.stdout == ""
