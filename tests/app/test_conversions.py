"""What a folder was converted to: found again, replaced when the folder changed, forgotten with the model."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from sextant.app.conversions import conversion_of, forget_conversions
from sextant.base.errors import Misconfigured
from sextant.cli.main import app


def folder_of_a_model(root: Path, name: str = "qwen") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def converted(folder: Path, models: Path) -> Path:
    target = conversion_of(folder, models)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"GGUF")
    return target


def test_the_same_folder_has_the_same_conversion_until_it_changes(tmp_path: Path) -> None:
    folder = folder_of_a_model(tmp_path)
    before = conversion_of(folder, tmp_path / "models")
    assert conversion_of(folder, tmp_path / "models") == before
    (folder / "model.safetensors").write_bytes(b"other")
    assert conversion_of(folder, tmp_path / "models") != before


def test_an_earlier_conversion_goes_and_others_stay(tmp_path: Path) -> None:
    models = tmp_path / "models"
    folder, namesake = folder_of_a_model(tmp_path / "a"), folder_of_a_model(tmp_path / "b")
    old, others = converted(folder, models), converted(namesake, models)
    (folder / "model.safetensors").write_bytes(b"other")
    new = converted(folder, models)
    assert forget_conversions(folder, models, but=new) == 4
    assert not old.exists()
    assert new.exists()
    assert others.exists()


def test_nothing_was_ever_converted(tmp_path: Path) -> None:
    assert forget_conversions(folder_of_a_model(tmp_path), tmp_path / "models") == 0


def remove(name: str, state: Path) -> Result:
    return CliRunner().invoke(app, ["model", "rm", name, "--state", str(state)])


def test_rm_of_a_folder_deletes_its_conversion_and_never_the_folder(tmp_path: Path) -> None:
    folder, state = folder_of_a_model(tmp_path), tmp_path / "state"
    made = converted(folder, state / "models")
    assert remove(str(folder), state).exit_code == 0
    assert not made.exists()
    assert (folder / "config.json").exists()
    again = remove(str(folder), state)
    assert isinstance(again.exception, Misconfigured)
    assert "neither fetched by name nor converted" in str(again.exception)


def test_rm_by_name_takes_the_conversion_along(tmp_path: Path) -> None:
    state = tmp_path / "state"
    snapshot = folder_of_a_model(state / "models" / "hf" / "org" / "small" / "snapshots", "c0ffee")
    made = converted(snapshot, state / "models")
    assert remove("hf:org/small", state).exit_code == 0
    assert not made.exists()
    assert not snapshot.exists()
