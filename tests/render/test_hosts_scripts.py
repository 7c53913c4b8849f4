"""What the scripts of a bundle share, run by a shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.render.host_bundles import text_of
from tests.render.orders import EMBEDDED, order

from sextant.render import render

SECRETS = """\
# a comment
STORE_PASSWORD=a $(touch ran) `touch ran`; touch ran & b=c
QUOTED="two  words"
SINGLE='it is $HOME'
EMPTY=
NOT-A-NAME=x
no line of ours
LAST=without a newline"""
"""As systemd reads it: a value goes to the end of its line."""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    made = render(order("edge", **EMBEDDED))
    for name in ("settings.sh", "lib.sh"):
        (tmp_path / name).write_text(text_of(made, name))
    (tmp_path / "root/etc/sextant").mkdir(parents=True)
    return tmp_path


def _run(folder: Path, script: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-euc", f". ./settings.sh; . ./lib.sh; {script}"],
        cwd=folder, env={**os.environ, "SEXTANT_ROOT": str(folder / "root")}, input=given,
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip


def test_secrets_are_read_and_never_run(library: Path) -> None:
    (library / "root/etc/sextant/secrets.env").write_text(SECRETS)
    names = ("STORE_PASSWORD", "QUOTED", "SINGLE", "EMPTY", "LAST")
    told = _run(library, f"as_service printenv {' '.join(names)}; echo ${{LAST-unset}}")
    assert told.stdout.splitlines() == [
        "a $(touch ran) `touch ran`; touch ran & b=c",
        "two  words",
        "it is $HOME",
        "",
        "without a newline",
        "unset",
    ], told.stderr
    assert not (library / "ran").exists()


def test_databases_are_opened_with_the_secrets_that_are_sealed(library: Path) -> None:
    bundle = library / "root/opt/sextant/current/bundle"
    program = library / "root/opt/sextant/current/venv/bin/sextant"
    for folder in (bundle, program.parent):
        folder.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$*"\n')
    program.chmod(0o755)
    document = bundle / "sextant.yaml"
    for reference, asked in (
        ("env:STORE_PASSWORD", "db list"),
        ("sealed:/etc/sextant/store.sealed", f"hsm exec {document} -- {program} db list"),
    ):
        document.write_text(f"spec:\n  store:\n    password: {reference}\n")
        assert _run(library, f"as_service {program} db list").stdout == f"{asked}\n"
        assert _run(library, f"as_service {program} up x").stdout == "up x\n", "it opens them itself"


def test_without_secrets_a_command_runs_all_the_same_with_its_own_input(library: Path) -> None:
    assert _run(library, "as_service cat", given="what is asked").stdout == "what is asked"
    assert _run(library, "if as_service false; then echo yes; else echo no; fi").stdout == "no\n"
