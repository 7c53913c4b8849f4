"""`sextant catalog`: lists, one entry with its sources, a user's file, and names that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sextant.base.errors import Misconfigured, NotFound
from sextant.cli.main import app


def said(*args: str) -> str:
    done = CliRunner().invoke(app, ["catalog", *args])
    if done.exception is not None:
        raise done.exception
    assert done.exit_code == 0
    return done.output


def test_models_are_listed_with_measured_and_computed_sizes() -> None:
    rows = {line.split()[0]: line for line in said("models").splitlines()}
    assert rows["deepseek-r1"].split() == [
        "deepseek-r1", "671", "37.6", "mla", "163,840", "70,272", "fp8", "641.3",
    ]  # fmt: skip
    assert rows["deepseek-v2"].endswith("(computed)")
    assert "3,1" in rows["deepseek-v4-flash"]


def test_accelerators_are_listed_with_dense_rates() -> None:
    rows = {line.split()[0]: line.split() for line in said("accelerators").splitlines()}
    assert rows["h100-sxm"][-6:] == ["79.65", "3.35", "989", "1978", "700", "3.15"]
    assert rows["mi250x"][-3:] == ["–", "560", "–"]


def test_one_entry_shows_the_source_of_each_value() -> None:
    shown = said("accelerators", "h20")
    assert "also called: H20, H20-96" in shown
    assert [line for line in shown.splitlines() if line.startswith("watts") and "estimate" in line]
    found = json.loads(said("models", "R1", "--json"))
    assert found["id"] == "deepseek-r1"
    assert found["facts"]["checkpoints"]["value"]["fp8"] == 688_590_641_561
    assert found["facts"]["checkpoints"]["unit"] == "bytes"
    assert found["facts"]["context_tokens"]["source"]["date"] == "2026-11-22"


@pytest.mark.parametrize("what", ["models", "accelerators"])
def test_all_of_them_as_json(what: str) -> None:
    found = json.loads(said(what, "--json"))
    assert len(found) > 20
    assert all(fact["source"]["where"] for one in found for fact in one["facts"].values())


def test_a_user_s_file_is_laid_over(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[accelerator.h20]\nusd_per_h = { on_demand = 1.1 }\n")
    shown = said("accelerators", "H20", "--facts", str(own))
    line = next(line for line in shown.splitlines() if line.startswith("usd_per_h"))
    assert "on_demand 1.1" in line
    assert "own.toml" in line


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[accelerator.h20]\nwats = 1", "there is no field `wats`; nearest: watts"),
        (b"\xff", "not UTF-8"),
        (b"#" * 1_000_001, "over 1000000 bytes"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    own = tmp_path / "own.toml"
    own.write_bytes(data)
    with pytest.raises(Misconfigured, match=message):
        said("models", "--facts", str(own))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.toml: the facts file cannot be read: No such file"):
        said("models", "--facts", str(tmp_path / "none.toml"))


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(NotFound, match=r"there is no model `DeepSeek-R2`.*nearest: .*DeepSeek-R1"):
        said("models", "DeepSeek-R2")
