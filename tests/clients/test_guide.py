"""The examples of the clients' guide, run as they stand there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from stack import RunningStack

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs/guides/clients.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.M | re.S)


def test_the_guide_has_its_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("example", EXAMPLES, ids=["openai", "anthropic", "langchain"])
def test_an_example_runs_as_it_stands(
    example: str, stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "http://127.0.0.1:8000" in example
    monkeypatch.setenv("SEXTANT_API_KEY", stack.key)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example.replace("http://127.0.0.1:8000", stack.url), str(GUIDE), "exec"), {})
    # at the examples' own temperature a small model may miscalculate; that it answers is the point here
    assert said.getvalue().strip()
