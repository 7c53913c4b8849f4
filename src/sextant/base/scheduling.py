"""A shorter time slice for a process that others wait for, where the kernel knows such a wish.

The ledger works for a fraction of a millisecond per commit and every answer waits for it. Where it shares
a core with the gateway, the scheduler lets the gateway finish its slice first; a process with a shorter
slice is let in at once (Linux 6.12 and later, `sched_setattr(2)`; it needs no privilege and gets no larger
share of the core).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

PROMPT_SLICE_NS = 100_000
"""The shortest slice that the kernel grants."""
_SYSCALLS = {"x86_64": 314, "aarch64": 274}
_SCHED_OTHER = 0
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""size, policy, flags, nice, priority, runtime, deadline, period: version 0 of `struct sched_attr`."""


def shorten_slice(slice_ns: int = PROMPT_SLICE_NS) -> bool:
    """Asks for slices of `slice_ns` nanoseconds for the calling thread; its nice value stays. False where the
    machine or the kernel has no such call. Older kernels accept and ignore it: nothing then changes."""
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, _SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(number, 0, attributes, 0) == 0)
