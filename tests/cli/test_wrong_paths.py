"""What a stranger types first: names that are not there, files for folders, folders for files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stack_under_test import sextant

DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {name: shop}
spec:
  model: {name: sextant-nano}
  engine: {kind: embedded}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a document, a bundle's beginnings and something else."""
    (tmp_path / "sextant.yaml").write_text(DOCUMENT)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "MANIFEST.json").write_text("{}")
    (tmp_path / "bundle" / "install.sh").touch()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("apply sextent.yaml", "sextent.yaml: is not there; expected a bundle's directory, or a deployment"),
        ("apply sextent.yaml", "did you mean sextant.yaml?"),
        ("apply prod", "did you mean bundle or sextant.yaml?"),
        ("apply bundel --yes", "did you mean bundle?"),
        ("apply no/such/file.yaml", "the folder no/such is not there either"),
        ("apply sextant.yaml/x", "is not there"),
        ("apply bundle/install.sh", "is a file of a bundle; apply the bundle: sextant apply bundle"),
        ("apply sextant.yaml word --site a", "WORD, --site is for bundles"),
        ("apply /dev/zero", "more than 262144 bytes"),
        ("verify bundel", "expected the directory of a bundle; did you mean bundle?"),
        ("verify sextant.yaml", "is a file, not a bundle"),
        ("render sextant.yml -o out", "expected a deployment document; did you mean sextant.yaml?"),
        ("render bundle -o out", "is a folder; name the document in it"),
        ("diff sextant.yaml sextent.yaml", "sextent.yaml: is not there"),
        ("diff bundel sextant.yaml", "bundel: is not there"),
    ],
)
def test_a_slip_of_the_hand_is_named(here: Path, typed: str, said: str) -> None:
    done = sextant(*typed.split(), env={**os.environ, "SEXTANT_STATE": str(here / "state")})
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert not (here / "out").exists()


def test_where_nothing_is_near_that_is_said(tmp_path: Path) -> None:
    done = sextant("apply", str(tmp_path / "sextant.yaml"))
    assert f"{tmp_path} holds neither a document nor a bundle" in done.stderr
