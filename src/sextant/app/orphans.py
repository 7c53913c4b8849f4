"""What engines leave behind when both of their keepers are killed in the same moment.

The supervisor is the next one above the keepers that adopts: such processes become children of its own, which
it never started, and it ends them. Only where the supervisor is killed in that moment too is anything left;
as a service, systemd ends that with the unit. Neighbours: `engines/keeper.py` (who should clear up before),
`supervisor.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from sextant.base.lifeline import adopt_orphans

LAST_SWEEP_S = 2.0
"""At the end, what a device driver holds is waited for no longer."""
SWEEP_STEP_S = 0.02


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """As long as it is open, descendants whose parents end become our children; at the end those are ended,
    too. Raises OSError where the kernel refuses."""
    adopt_orphans()
    try:
        yield
    finally:
        give_up_at_s = time.monotonic() + LAST_SWEEP_S
        while sweep(()) and time.monotonic() < give_up_at_s:
            time.sleep(SWEEP_STEP_S)
        adopt_orphans(False)


def sweep(known: Collection[int]) -> bool:
    """Ends children that we did not start, and collects those that have ended; whether there were any, so
    that a later call may find theirs. `known` are those that we started in a session of their own; what we
    run in our own session is ours as well."""
    found = [pid for pid in _strangers() if pid not in known]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return bool(found)


def _strangers() -> Iterator[int]:
    """Our children that are in another session than we are."""
    ours, session = os.getpid(), os.getsid(0)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == ours and int(fields[3]) != session:
                    yield int(folder.name)
