"""`sextant apply`: refuses what is not as rendered, asks first, runs the right commands, stops at a fault.

`kubectl` is a stand-in that writes down what it was called with: no cluster is here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.render.orders import DISTILLED, EMBEDDED, document
from tests.render.test_kubernetes_hybrid import HYBRID
from tests.verify.bundles_under_test import rendered

FAKE_KUBECTL = """#!/bin/sh
case "$*" in
*--raw=/version*) exit 1 ;;
*) printf '%s\\n' "$*" >> "$(dirname "$0")/asked" && exit "$(cat "$(dirname "$0")/status")" ;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the stand-in, which is found first."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "kubectl").write_text(FAKE_KUBECTL)
    (folder / "kubectl").chmod(0o755)
    (folder / "status").write_text("0")
    return folder


def apply(bundle: Path, programs: Path, *more: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """The command, with `said` on its standard input."""
    command = [sys.executable, "-m", "sextant.cli.main", "apply", str(bundle), *more]
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(
        command, env=environment, input=said, capture_output=True, text=True, check=False, timeout=100
    )


def asked(programs: Path) -> list[str]:
    """What the stand-in was called with."""
    place = programs / "asked"
    return place.read_text().splitlines() if place.exists() else []


SERVER_SIDE = "apply --server-side --field-manager=sextant -f"


@pytest.mark.slow
def test_a_cluster_bundle_is_applied_in_order_after_a_yes(tmp_path: Path, programs: Path) -> None:
    bundle = rendered(document("private-cloud", **DISTILLED), tmp_path)
    refused = apply(bundle, programs, said="n\n")
    assert refused.returncode == 1
    assert f"{SERVER_SIDE} cluster/" in refused.stdout
    assert asked(programs) == []
    done = apply(bundle, programs, "--context", "lab", said="y\n")
    assert done.returncode == 0, done.stderr
    assert asked(programs) == [f"--context lab {SERVER_SIDE} {part}" for part in ("cluster/", "manifests/")]


def test_a_command_that_fails_ends_it(tmp_path: Path, programs: Path) -> None:
    bundle = rendered(document("private-cloud", **DISTILLED), tmp_path)
    (programs / "status").write_text("3")
    done = apply(bundle, programs, "--yes")
    assert done.returncode == 1
    assert "ended with 3" in done.stderr
    assert asked(programs) == [f"{SERVER_SIDE} cluster/"]


def test_a_changed_bundle_is_refused(tmp_path: Path, programs: Path) -> None:
    bundle = rendered(document("private-cloud", **DISTILLED), tmp_path)
    with (bundle / "manifests/50-gateway.yaml").open("a") as file:
        file.write("# mine\n")
    done = apply(bundle, programs, "--yes")
    assert done.returncode == 1
    assert "SX-V101" in done.stdout and "Refused" in done.stdout
    assert asked(programs) == []


@pytest.mark.slow
def test_of_a_bundle_for_two_clusters_one_is_named(tmp_path: Path, programs: Path) -> None:
    bundle = rendered(document("hybrid", **HYBRID), tmp_path)
    unsaid = apply(bundle, programs, "--yes")
    assert unsaid.returncode == 1
    assert "--site private or --site public" in unsaid.stderr
    done = apply(bundle, programs, "--yes", "--site", "public")
    assert done.returncode == 0, done.stderr
    assert asked(programs) == [f"{SERVER_SIDE} public/{part}" for part in ("cluster/", "manifests/")]


@pytest.mark.slow
def test_a_bundle_for_a_server_runs_its_own_script(tmp_path: Path, programs: Path) -> None:
    """The script is asked for its usage: it is really run, and nothing is installed."""
    bundle = rendered(document("edge", **EMBEDDED), tmp_path)
    done = apply(bundle, programs, "--yes", "--", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: install.sh" in done.stdout
    assert asked(programs) == []


def test_what_is_no_bundle_is_refused(tmp_path: Path, programs: Path) -> None:
    done = apply(tmp_path, programs, "--yes")
    assert done.returncode == 1
    assert "is no bundle" in done.stderr
