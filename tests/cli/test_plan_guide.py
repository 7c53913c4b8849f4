"""docs/guides/plan.md: its sessions run and say what it says, its documents and files load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sextant.cli.main import app
from sextant.spec.document import parse_document
from sextant.spec.hardware_prices import load_prices

GUIDE = (Path(__file__).parents[2] / "docs/guides/plan.md").read_text(encoding="utf-8")
SESSIONS = [
    block
    for block in re.findall(r"```console\n\$ (sextant plan .*?)```", GUIDE, re.S)
    if "http://" not in block  # those need an endpoint; tests/cli/test_plan_command.py has one
]
DOCUMENT = """
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {name: planned}
"""


def test_the_guide_has_sessions() -> None:
    assert len(SESSIONS) == 2


@pytest.mark.parametrize("session", SESSIONS)
def test_a_session_says_what_the_command_says(session: str) -> None:
    """Words, not numbers: those move with every measured point that is added."""
    command, _, shown = session.replace("\\\n", " ").partition("\n")
    result = CliRunner().invoke(app, [*command.split()[1:], "--lang", "en"])
    assert result.exit_code == (1 if "No option meets this" in shown else 0), result.output
    printed = re.sub(r"\s+", " ", result.stdout)
    for line in shown.splitlines():
        label = re.split(r"\d|\s{2,}", line.strip())[0].strip()
        if not line.startswith(("h200", "saas")):
            assert label in printed, line


def test_the_document_of_the_guide_loads() -> None:
    spec = next(block for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.S) if "planning:" in block)
    model = "  model: {name: r1, source: 'hf:deepseek-ai/DeepSeek-R1'}\n  engine: {kind: vllm}\n"
    found = parse_document(DOCUMENT + spec.replace("spec:\n", "spec:\n" + model))
    assert found.spec.planning.costs.pue == 1.1 and found.spec.planning.calibration_file == "machine.toml"


def test_the_prices_of_the_guide_load() -> None:
    toml = re.findall(r"```toml\n(.*?)```", GUIDE, re.S)
    assert load_prices(toml[0]).cards["h200"].price_usd == 27_500
