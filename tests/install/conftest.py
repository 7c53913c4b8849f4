"""Bundles for this machine's processors, two built versions of Sextant, and a scratch root for each test.

Process 1 is not systemd here: units are run by `unit_runner.py`, with their environment and limits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sextant.operations import bundles
from upgrade.later_sextant import make_later_tree
from wheel.conftest import wheels

__all__ = ["wheels"]

RUNNER = Path(__file__).with_name("unit_runner.py")
TIMEOUT_S = 600
"""Of a script; only a machine that is far too busy comes near it."""


@dataclass(frozen=True)
class Server:
    """A scratch root, and how scripts are run against it."""

    root: Path
    systemctl: Path
    within: tuple[str, ...] = ()
    """What every command is run by: another network, for example."""

    @property
    def state(self) -> Path:
        return self.root / "var/lib/sextant"

    @property
    def current(self) -> Path:
        return self.root / "opt/sextant/current"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SEXTANT_ROOT": str(self.root),
            "SEXTANT_SYSTEMCTL": str(self.systemctl),
            "SEXTANT_PYTHON": sys.executable,
            "UNIT_RUNNER_OWNER": str(os.getpid()),
            "PIP_NO_COMPILE": "1",  # the test's own hurry: byte code is made as it is needed
        }

    def run(self, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A script of a bundle, without a terminal."""
        return subprocess.run(
            [*self.within, script, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def sextant(self, *words: str) -> str:
        """What the installed command line prints. Fails the test when it fails."""
        done = self.run(self.current / "venv/bin/sextant", *words, "--state", str(self.state))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def unit(self, *words: str) -> str:
        return self.run(self.systemctl, *words).stdout.strip()

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.root.glob("run/unit-runner/*.log")))


@pytest.fixture
def server() -> Iterator[Server]:
    root = Path(tempfile.mkdtemp(prefix="sx-root-"))
    systemctl = root / "systemctl"
    systemctl.write_text(f'#!/bin/sh\nexec {sys.executable} {RUNNER} "$@"\n')
    systemctl.chmod(0o755)
    made = Server(root, systemctl)
    yield made
    print(made.logs())
    for unit in sorted(root.glob("run/unit-runner/*.pid")):
        made.unit("stop", unit.stem)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def later_wheels(wheels: Path) -> Iterator[Path]:
    """The same, but for Sextant itself, which is a later one with more migrations."""
    folder = Path(tempfile.mkdtemp(prefix="sx-later-"))
    try:
        (folder / "tree").mkdir()
        tree = make_later_tree(folder / "tree")
        (folder / "wheels").mkdir()
        for wheel in wheels.glob("*.whl"):
            if not wheel.name.startswith("sextant_llm-"):
                (folder / "wheels" / wheel.name).hardlink_to(wheel)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "wheel", "--no-deps", "--wheel-dir", folder / "wheels", tree],
            check=True,
            timeout=TIMEOUT_S,
        )
        yield folder / "wheels"
    finally:
        shutil.rmtree(folder)


def write_bundle(document: str, folder: Path, *, version: str = "") -> Path:
    """The bundle of a document in `folder`, as the `version` of Sextant would write it."""
    source = folder.with_suffix(".yaml")
    source.write_text(document)
    bundles.write(bundles.render_document(source), folder)
    if version:
        settings = folder / "settings.sh"
        lines = settings.read_text().splitlines()
        settings.write_text(
            "\n".join(
                f"version={version}" if line.startswith("version=")
                else f"release={version}-later" if line.startswith("release=")
                else line
                for line in lines
            )
            + "\n"
        )  # fmt: skip
    return folder
