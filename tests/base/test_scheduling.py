"""The shorter time slice, asked of the kernel that runs the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sextant.base import scheduling

PROGRAM = """
import os
from pathlib import Path
from sextant.base.scheduling import shorten_slice
os.setpriority(os.PRIO_PROCESS, 0, 3)
print(shorten_slice(), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_OTHER)
print(Path("/proc/self/sched").read_text() if Path("/proc/self/sched").exists() else "")
"""


def test_the_kernel_takes_the_shorter_slice_and_keeps_the_rest() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, _, sched = done.stdout.partition("\n")
    assert first == "True 3 True"
    shown = re.search(r"se\.slice\s*:\s*(\d+)", sched)
    if shown is not None and tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 12):
        assert int(shown[1]) == scheduling.PROMPT_SLICE_NS


def test_a_machine_without_the_call_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling.platform, "machine", lambda: "m68k")
    before = Path("/proc/self/stat").read_text().split()[17:19]
    assert scheduling.shorten_slice() is False
    assert Path("/proc/self/stat").read_text().split()[17:19] == before
