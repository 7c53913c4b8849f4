"""The make targets and the scripts behind them, without installing anything."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / ".ci").iterdir())
PROMISED = (
    "setup",
    "up",
    "test",
    "test-fast",
    "test-core",
    "check",
    "docs",
    "bench",
    "bench-gateway",
    "bench-engine",
)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_help_names_every_target() -> None:
    shown = make("help")
    assert shown.returncode == 0
    for target in PROMISED:
        assert re.search(rf"^  make {target} +\S", shown.stdout, re.M), target


@pytest.mark.parametrize("target", ["setup", "test", "check", "docs"])
def test_targets_can_be_planned(target: str) -> None:
    planned = make("--dry-run", target)
    assert planned.returncode == 0, planned.stderr


def test_torch_comes_first_and_alone() -> None:
    """Any other order or request brings gigabytes of CUDA along."""
    planned = make("--dry-run", "--always-make", "test-workshop").stdout
    torch = re.search(r"^.*pip install.* torch==[\d.]+$", planned, re.M)
    assert torch is not None
    assert torch.start() < planned.index("[workshop]")


def test_what_is_installed_is_named_after_what_asks_for_it() -> None:
    """A changed pyproject.toml installs anew, an unchanged one nothing."""
    database = make("--print-data-base", "--question", "help").stdout
    stamps = set(re.findall(r"^\w+_STAMP := (\S+)", database, re.M))
    hashed = [stamp for stamp in stamps if re.search(r"\$\(HASH\)|-[0-9a-f]{16}$", stamp)]
    assert len(hashed) >= 4, stamps


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_run_and_stop_at_the_first_error(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def packages(*pairs: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / ".ci/debian-packages", *pairs],
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_is_installed_where_nothing_is_missing(tmp_path: Path) -> None:
    done = packages("bash:/bin/bash", "libc6:libc.so.6", path=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_packages_are_named_where_apt_is_missing(tmp_path: Path) -> None:
    done = packages("bash:/bin/bash", f"nginx:{tmp_path}/nginx", "libno1:libno.so.1", path=str(tmp_path))
    assert done.returncode == 1
    assert "missing on this machine: nginx libno1 (Debian package names)" in done.stderr


def test_an_old_python_is_refused_by_its_version(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/bash\n[ "$1" = -V ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci/python-venv", tmp_path / "venv"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Python 3.9.2; Sextant needs Python 3.11 or newer" in done.stderr
