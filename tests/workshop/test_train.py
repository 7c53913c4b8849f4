"""The recipe itself, at its smallest on the CPU: it trains, and what it writes can be exported and served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.workshop.served import HF, Served

pytestmark = pytest.mark.slow


def nano(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sextant.workshop.nano", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.timeout(240)
def test_a_short_training_learns_and_its_checkpoint_is_exported_and_served(tmp_path: Path) -> None:
    done = nano(
        "train", "--out", str(tmp_path), "--size", "small", "--minutes", "0.6", "--eager", "--length", "128",
        "--batch", "16", "--workers", "1", "--exam-problems", "1", "--exam-every-s", "1000", "--lr", "0.05",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    first = next(entry["loss"] for entry in log if entry.get("step") == 1)
    last = [entry for entry in log if entry.get("done")]
    assert last[0]["steps"] >= 2
    assert last[0]["loss"] < first, "training did not lower the loss"
    exported = nano("export", "--model", str(tmp_path), "--out", str(tmp_path / "m.gguf"), "--kind", "F16")
    assert exported.returncode == 0, exported.stderr
    ids, logprobs = Served(tmp_path / "m.gguf").greedy([1, 2, 3], 4)
    assert 1 <= len(ids) <= 4  # a model this young may end at once
    assert all(value <= 0 for value in logprobs)


@pytest.mark.parametrize("batch", ["0", "20", "-16"])
def test_a_batch_that_cannot_be_made_of_whole_chunks_is_refused(tmp_path: Path, batch: str) -> None:
    done = nano("train", "--out", str(tmp_path), f"--batch={batch}")
    assert done.returncode == 2
    assert "expected a positive multiple of 16" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_training_without_time_for_a_step_says_so(tmp_path: Path) -> None:
    done = nano(
        "train", "--out", str(tmp_path), "--size", "small", "--minutes", "0.0001", "--batch", "16",
        "--workers", "1", "--exam-problems", "1", "--eager",
    )  # fmt: skip
    assert done.returncode == 2
    assert "not one step" in done.stderr


def test_exporting_a_folder_without_a_model_says_which_file_is_missing(tmp_path: Path) -> None:
    done = nano("export", "--model", str(tmp_path), "--out", str(tmp_path / "m.gguf"))
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_shipped_folder_holds_what_a_training_writes() -> None:
    from sextant.workshop.nano.train import TOKENIZER_FILES

    assert all((HF / name).is_file() for name in TOKENIZER_FILES)
