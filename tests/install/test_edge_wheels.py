"""Every wheel that a box at the edge needs exists for 64-bit ARM: pip resolves the set without a compiler."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
GLIBC = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
"""Debian 12 and Ubuntu 22.04 have a newer one; pip wants each name that a wheel may carry."""


def _wheels(machine: str, folder: Path, *also: str) -> list[str]:
    """The file names of the whole set for Python 3.11 on that machine. Raises CalledProcessError when one is
    not there as a wheel."""
    needed = [each for each in requires("sextant-llm") or () if "extra ==" not in each]
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
    command += [f"--platform={glibc}_{machine}" for glibc in GLIBC]
    command += ["--target", str(folder / "none"), "--report", str(report), *needed, *also]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = json.loads(report.read_text())["install"]
    return [each["download_info"]["url"].rsplit("/", 1)[-1] for each in found]


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_the_whole_set_is_there_as_wheels(machine: str, tmp_path: Path) -> None:
    wheels = _wheels(machine, tmp_path)
    built = [each for each in wheels if not each.endswith("-any.whl")]
    assert len(wheels) > 40 and built, wheels
    assert all(machine in each for each in built), built
    assert any(each.startswith("xllamacpp-") for each in built), "the engine itself"


def test_what_has_no_wheel_for_the_machine_is_found(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        _wheels("riscv64", tmp_path)
    assert b"No matching distribution" in failed.value.stderr
