"""The process between the supervisor and an engine that is a foreign program: nothing outlives it.

    python -m sextant.engines.keeper [--grace-s S] -- PROGRAM ARGUMENT…

Two processes stand above the engine: the outer keeper, a child of the supervisor, and the inner one, in a
session of its own. Both are subreapers, so whatever the engine forks, and however often it forks away,
remains a descendant of theirs, and both kill all descendants before they end. When one of the two is killed
with -9 the other one clears up: the outer one as the parent, the inner one because the kernel tells it of
its parent's death. When the supervisor dies the outer one is told and clears up at once. Where both keepers
are killed with -9 in the same moment the engine's first process dies with them, and the supervisor adopts and
ends what it started (`app/orphans.py`). Only where the supervisor dies in that moment too is anything left: a
PID namespace or a cgroup would hold that, and both want rights that we may not have; systemd has them.
Standard library only.

SIGTERM, SIGINT and SIGHUP go to the engine's first process as SIGTERM; after the grace period all is killed.
The exit status is the engine's own, its death by a signal included. Neighbours: `base/lifeline.py` (dying
with the parent), `app/child.py` (which starts this).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sextant.base.config import variable
from sextant.base.lifeline import PARENT_VARIABLE, adopt_orphans, bind_to_parent

GRACE_S = 30.0
INNER_MARGIN_S = 1.0
"""The outer keeper waits so much longer than the inner one, which should clear up first."""
STOP_MARGIN_S = 5.0
"""Whoever stops a keeper gives it the engine's grace period and this."""
SWEEP_S_MAX = 10.0
"""A process that a device driver holds cannot be killed at once; after this the keeper ends without it."""
SWEEP_STEP_S = 0.005

_MODULE = "sextant.engines.keeper"
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_WATCHED = _ENDING | {signal.SIGCHLD}
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
_CANNOT_START = 127


def kept(argv: Sequence[str], *, grace_s: float = GRACE_S) -> tuple[str, ...]:
    """The command line that runs `argv` under a keeper. Whoever stops it waits `grace_s + STOP_MARGIN_S`."""
    return (sys.executable, "-m", _MODULE, "--grace-s", f"{grace_s:g}", "--", *argv)


def main(arguments: Sequence[str]) -> int:
    """Runs the engine named after `--`; returns its exit status, or dies by the signal that it died by."""
    options, command = _split(list(arguments))
    grace_s = _grace_of(options)
    if grace_s is None or not command:
        print(
            f"sextant: keeper: the arguments {list(arguments)!r} are not `--grace-s SECONDS -- PROGRAM …`",
            file=sys.stderr,
        )
        return os.EX_USAGE
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, children would vanish without a status
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    parent = variable(PARENT_VARIABLE)
    bind_to_parent(int(parent) if parent else None, signal.SIGTERM)
    adopt_orphans()

    def inner() -> int:
        os.setsid()
        adopt_orphans()
        engine = _fork(lambda: _become(command), signal.SIGKILL)
        return _keep(engine, grace_s)

    return _end_like(_keep(_fork(lambda: _end_like(inner()), signal.SIGTERM), grace_s + INNER_MARGIN_S))


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, parents before children. The dead that nobody collected are among them: a
    process whose first thread has ended looks dead, and may still have children."""
    children: dict[int, list[int]] = {}
    for child, parent in _processes():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, ()))
    for one in found:  # grows while we walk it
        found += children.get(one, ())
    return found


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before the first `--` and what stands behind it."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def _grace_of(options: list[str]) -> float | None:
    """The grace period, s; None where the options are not understood."""
    if not options:
        return GRACE_S
    with contextlib.suppress(ValueError):
        name, seconds = options
        if name == "--grace-s" and 0 <= float(seconds) < float("inf"):
            return float(seconds)
    return None


def _fork(body: Callable[[], int], death_signal: signal.Signals) -> int:
    """Runs `body` in a new process, which gets `death_signal` when we die, and ends it with its result."""
    ours = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        bind_to_parent(ours, death_signal)
        status = body()
    except BaseException as error:  # noqa: BLE001 - a process's edge: never back into the other's stack
        print(f"sextant: keeper: unexpected {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        status = os.EX_SOFTWARE
    os._exit(status)


def _become(command: list[str]) -> int:
    """Turns this process into the engine's first one. Returns only when it cannot be started."""
    os.setpgid(0, 0)
    for number in _PYTHON_IGNORES:
        signal.signal(number, signal.SIG_DFL)
    os.unsetenv(PARENT_VARIABLE)  # the engine's parent is another one: a program of ours would end at once
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(
            f"sextant: the engine's program {command[0]!r} cannot be started: {error.strerror}; "
            f"install it, or name the right one as spec.engine.command",
            file=sys.stderr,
            flush=True,
        )
        return _CANNOT_START


def _keep(child: int, grace_s: float) -> int:
    """Waits for `child`, passing on the wish to end; then kills all descendants. Returns its wait status."""
    parent = os.getppid()
    kill_at_s: float | None = None
    status, _ = _reap(child)
    while status is None:
        left_s = None if kill_at_s is None else kill_at_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            break
        number = _next_signal(left_s)
        status, _ = _reap(child)
        if number in _ENDING and status is None:
            if os.getppid() != parent:  # nobody is left for whom to end in order
                break
            kill_at_s = kill_at_s or time.monotonic() + grace_s
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
    return _sweep(child, status)


def _next_signal(timeout_s: float | None) -> int | None:
    """The next signal that concerns us; None after `timeout_s`."""
    if timeout_s is None:
        return signal.sigwaitinfo(_WATCHED).si_signo
    found = signal.sigtimedwait(_WATCHED, timeout_s)
    return None if found is None else found.si_signo


def _reap(child: int) -> tuple[int | None, bool]:
    """Collects every dead child, adopted ones too: the wait status of `child` if it was among them, and
    whether there are children left."""
    status = None
    try:
        while True:
            pid, found = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return status, True
            if pid == child:
                status = found
    except ChildProcessError:
        return status, False


def _sweep(child: int, status: int | None) -> int:
    """Kills all descendants until none is left, at most SWEEP_S_MAX; returns the wait status of `child`.

    None is left when we have no child: whatever lives below us becomes one when its parent ends.
    """
    give_up_at_s = time.monotonic() + SWEEP_S_MAX
    while True:
        left = descendants(os.getpid())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        found, any_left = _reap(child)
        status = found if status is None else status
        if not any_left:
            break
        if time.monotonic() > give_up_at_s:
            print(
                f"keeper: processes {left} cannot be killed; is a device stuck?", file=sys.stderr, flush=True
            )
            break
        time.sleep(SWEEP_STEP_S)
    return signal.SIGKILL if status is None else status


def _end_like(status: int) -> int:
    """The exit status to end with; where `status` is a death by signal, dies by the same, without a core."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError):  # SIGKILL has no handler to reset
        signal.signal(-code, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})  # it alone: a waiting SIGTERM would come first
    os.kill(os.getpid(), -code)
    return 128 - code


def _processes() -> Iterator[tuple[int, int]]:
    """Every process with its parent."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
                yield int(folder.name), int(fields[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
