"""`sextant model pull` and `rm`: what they say, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
from pathlib import Path

import fake_hub
import pytest
from pull_under_test import GGUF, hub, named
from rich.console import Console
from typer.testing import CliRunner, Result

from sextant.app.fitting import MEMORY_SHARE
from sextant.app.pull import Progress, Retrying, Verifying, WaitingForOther
from sextant.app.pull.cache import locked
from sextant.base.errors import SextantError
from sextant.cli.main import app
from sextant.cli.model_pull import pull_view

__all__ = ["hub"]


def run(state: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["model", *words, "--state", str(state)])


def said(result: Result) -> str:
    assert isinstance(result.exception, SextantError)
    return result.exception.message


def test_pull_says_what_it_would_fetch_and_fetches(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    hub.add("org/model", {"m-Q4_0.gguf": GGUF, "m-Q8_0.gguf": GGUF * 2})
    told = run(tmp_path, "pull", "org/model", "--dry-run")
    assert "Q8_0 of 2 quantisations" in told.output
    assert "m-Q8_0.gguf" in told.output
    assert "Or write hf:org/model:LABEL for: Q4_0 (0.000 GB)" in told.output
    assert json.loads(run(tmp_path, "pull", "org/model", "--dry-run", "--json").output)["label"] == "Q8_0"
    assert hub.content_requests() == []
    done = run(tmp_path, "pull", "org/model:Q4_0")
    assert done.exit_code == 0, done.output
    path = Path(json.loads(run(tmp_path, "pull", "org/model:Q4_0", "--json").output)["path"])
    assert path.read_bytes() == GGUF
    assert str(path) in done.output
    assert len(hub.content_requests()) == 1
    assert tmp_path.stat().st_mode & 0o077 == 0
    assert "is here already" in said(run(tmp_path, "pull", str(path)))


def test_pull_takes_what_fits_here_or_what_is_named(
    hub: fake_hub.FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/model", {"m-Q4_0.gguf": GGUF, "m-Q8_0.gguf": GGUF * 2})
    monkeypatch.setattr("sextant.app.machine.memory_free_bytes", lambda: int(len(GGUF) * 1.5 / MEMORY_SHARE))
    assert json.loads(run(tmp_path, "pull", "org/model", "--dry-run", "--json").output)["label"] == "Q4_0"
    named_one = run(tmp_path, "pull", "org/model:Q8_0", "--dry-run", "--json")
    assert json.loads(named_one.output)["label"] == "Q8_0"


def test_pull_takes_a_token_by_reference_only(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    message = said(run(tmp_path, "pull", "org/model", "--token", "hf_pasted"))
    assert "neither `env:NAME` nor `file:/path` nor `sealed:/path`" in message
    assert "hf_pasted" not in message


def test_rm_deletes_what_was_fetched(hub: fake_hub.FakeHub, tmp_path: Path) -> None:
    assert "nothing of hf:org/model was fetched" in said(run(tmp_path, "rm", "org/model"))
    run(tmp_path, "pull", "org/model")
    with locked(tmp_path / "models", named("org/model"), lambda pid: None):
        assert "is being fetched" in said(run(tmp_path, "rm", "org/model"))
    assert "Deleted hf:org/model" in run(tmp_path, "rm", "org/model:Q4_K_M").output
    assert list((tmp_path / "models").rglob("*.gguf")) == []
    assert "nothing of hf:org/model was fetched" in said(run(tmp_path, "rm", "org/model"))
    assert "delete it yourself" in said(run(tmp_path, "rm", str(tmp_path)))


@pytest.mark.parametrize("terminal", [True, False])
def test_the_view_shows_progress_once_it_takes_a_while(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("sextant.cli.model_pull.BAR_AFTER_S", 0.0)
    with pull_view(Console(file=shown, force_terminal=terminal, width=120, highlight=False)) as tell:
        tell(WaitingForOther(7))
        tell(Verifying("a/m.gguf", 2 * 10**9))
        for done_bytes in range(0, 1001, 5):
            tell(Progress("a/m.gguf", done_bytes * 10**6, 10**9))
        tell(Retrying("the connection broke", 1.5))
    text = shown.getvalue()
    assert "process 7 fetches the same model" in text
    assert "2.00 GB are here already" in text
    assert "the connection broke; again in 1.5 s" in text
    if terminal:
        assert "m.gguf" in text
        assert "━" in text
    else:
        assert text.count(" of 1.00 GB, a/m.gguf") == 11, "one line a tenth"


def test_the_view_is_silent_where_it_takes_a_moment() -> None:
    shown = io.StringIO()
    with pull_view(Console(file=shown, force_terminal=True)) as tell:
        tell(Progress("m.gguf", 5, 10))
    assert shown.getvalue() == ""
