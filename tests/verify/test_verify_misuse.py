"""`render`, `diff`, `verify`, `apply` in the hands of somebody new: mistakes are named, with the way out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.render.orders import DISTILLED, document
from tests.verify.bundles_under_test import rendered

from sextant.base.errors import BadDocument, Misconfigured
from sextant.operations.bundles import MANIFEST, Rendered, render_document, write
from sextant.operations.bundles_diff import changes
from sextant.operations.verify import running
from sextant.operations.verify.applying import commands_of
from sextant.operations.verify.running import said_by, set_up
from sextant.operations.verify.verifying import BY_NEEDS, verify
from sextant.spec.bundle import File


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered(document("private-cloud", **DISTILLED), tmp_path_factory.mktemp("cluster"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda place: None, "is not there; name a folder"),
        (lambda place: place.write_text("kind: x"), "is a file, not a bundle; `sextant render"),
        (lambda place: place.mkdir(), "it has no MANIFEST.json of `sextant render`; name the folder"),
    ],
)
def test_what_is_no_bundle_is_said_to_be_what_it_is(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / "it")
    with pytest.raises(Misconfigured, match=said):
        verify(tmp_path / "it")


def test_a_folder_in_the_place_of_a_document(tmp_path: Path) -> None:
    with pytest.raises(BadDocument, match="is a folder; name the document in it"):
        render_document(tmp_path)
    with pytest.raises(BadDocument, match="name a deployment document"):
        render_document(tmp_path / "gone.yaml")


@pytest.mark.slow
def test_a_bundle_of_an_older_version_is_not_blamed_for_what_it_could_not_say(
    cluster: Path, tmp_path: Path
) -> None:
    manifest = json.loads((cluster / MANIFEST).read_text())
    older = {key: value for key, value in manifest.items() if key not in ("needs", "planned")}
    subprocess.run(["cp", "-r", cluster, tmp_path / "older"], check=True)
    (tmp_path / "older" / MANIFEST).write_text(json.dumps({**older, "version": "0.0.1"}))
    report = verify(tmp_path / "older", kubernetes="1.36")
    assert report.faults == ()
    said = {each.check: each.why for each in report.not_run}
    assert "Sextant 0.0.1" in said["version"]
    assert {*BY_NEEDS, "SX-V013"} <= set(said)


def test_a_server_s_bundle_is_not_begun_where_systemd_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systemd").mkdir()
    (tmp_path / "install.sh").write_text("#!/bin/sh\n")
    monkeypatch.setattr("sextant.operations.verify.applying.SYSTEMD", tmp_path / "no-systemd")
    with pytest.raises(Misconfigured, match="systemd, which does not run this machine"):
        commands_of(tmp_path)
    assert commands_of(tmp_path, options=["--help"]) == (("./install.sh", "--help"),)
    monkeypatch.setattr("sextant.operations.verify.applying.SYSTEMD", tmp_path)
    assert commands_of(tmp_path) == (("./install.sh",),)


def test_words_for_a_script_that_is_not_there(cluster: Path) -> None:
    with pytest.raises(Misconfigured, match=r"--cert: is for an install\.sh"):
        commands_of(cluster, options=["--cert", "x"])


def test_an_interrupted_write_leaves_the_bundle_that_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = rendered(document("on-prem", **DISTILLED), tmp_path)
    before = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
    again: Rendered = render_document(tmp_path / "deployment.yaml")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if target == place and not self.name.endswith(".old"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(again, place)
    assert {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()} == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bundle", "deployment.yaml"]


def test_an_interrupted_validator_is_ended(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a session of its own, so Ctrl-C does not reach it by itself."""
    bench = set_up(cluster, tmp_path)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*words: object, **more: object) -> subprocess.Popen[bytes]:
        process = popen(*words, **more)  # type: ignore[call-overload]
        started.append(process)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        return process

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    monkeypatch.setattr(running.subprocess, "Popen", noted)
    try:
        with pytest.raises(KeyboardInterrupt):
            said_by((sys.executable, "-c", "import time; time.sleep(300)"), bench, networked=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    (process,) = started
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_of_long_values_what_differs_is_shown() -> None:
    """Two values that begin alike were once shown as the same."""

    def file(query: str) -> dict[str, File]:
        text = json.dumps({"apiVersion": "v1", "kind": "K", "metadata": {"name": "a"}, "spec": query})
        return {"a.yaml": File("a.yaml", text.encode())}

    (change,) = changes(file("sum(" + "x" * 300 + ") > 1"), file("sum(" + "x" * 300 + ") > 2"))
    (line,) = change.lines
    assert ") > 1" in line and ") > 2" in line and len(line) < 120


@pytest.mark.slow
def test_a_difference_made_by_hand_is_said_to_be_one(cluster: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", cluster, tmp_path / "edited"], check=True)
    with (tmp_path / "edited/README.md").open("a") as file:
        file.write("mine\n")
    command = [sys.executable, "-m", "sextant.cli.main", "diff", str(tmp_path / "edited"), str(cluster)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=False, timeout=100) for _ in range(2)
    )
    assert first.returncode == 1
    assert "README.md is not as it was rendered" in first.stderr
    assert "-mine" in first.stdout and first.stdout == second.stdout
