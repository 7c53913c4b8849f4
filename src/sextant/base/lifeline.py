"""A child process that cannot outlive its parent.

Every process that the supervisor starts calls `bind_to_parent` first, so that even `kill -9` of the
supervisor leaves nothing behind: the kernel sends the child a signal when its parent is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

PARENT_VARIABLE = "SEXTANT_PARENT_PID"
"""Set by the supervisor for its children; absent when a process entry is run by hand."""


def bind_to_parent(parent_pid: int | None, death_signal: int = signal.SIGKILL) -> None:
    """Asks the kernel to send `death_signal` when the parent dies; exits at once if it is dead already.

    `parent_pid` is the pid that the parent passed down; None (run by hand) does nothing. Linux only; raises
    OSError where the kernel refuses. The signal is tied to the thread that forked, so the parent must start
    its children from a thread that lives as long as itself.
    """
    if parent_pid is None:
        return
    _prctl(_PR_SET_PDEATHSIG, int(death_signal), "PR_SET_PDEATHSIG")
    if os.getppid() != parent_pid:
        os._exit(0)


def adopt_orphans(adopt: bool = True) -> None:
    """Makes this process the parent of every descendant whose own parent ends. Raises OSError if refused."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), "PR_SET_CHILD_SUBREAPER")


def _prctl(option: int, value: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({name}) failed: {os.strerror(code)}")
