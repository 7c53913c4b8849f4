"""The deployment document that an advice starts from, as text. Pure.

It must run today: `sextant up` serves it on one host whatever its mode, and `sextant render` writes what the
mode needs. What is advised besides the mode (a provider's model behind a gateway of one's own, a
guarded and a cleared model side by side, a distillation for a device) this version does serve, so the
document does it.
"""

from __future__ import annotations

from collections.abc import Iterator

from sextant.planner.advice_text import Catalogue
from sextant.spec.advice import Advice, Mode, Requirements

_DISTILLED = """\
  model:
    name: deepseek-r1-distill-qwen-1.5b
    aliases: [deepseek-chat, deepseek-reasoner]
    source: hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
  engine:
    kind: embedded
"""
_PRIVATE = """\
  model:
    name: deepseek-r1-distill-qwen-7b
    aliases: [deepseek-chat, deepseek-reasoner]
    source: hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B
  engine:
    kind: vllm
"""
_PROVIDER = """\
  model:
    name: deepseek-chat
    personal_data: guarded
  engine:
    kind: remote
    base_url: https://api.deepseek.com/v1
    api_key: env:DEEPSEEK_API_KEY
"""
_BOTH = """\
  models:
    - name: deepseek-private
      source: hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B
      personal_data: cleared
      engine:
        kind: vllm
    - name: deepseek-chat
      personal_data: guarded
      engine:
        kind: remote
        base_url: https://api.deepseek.com/v1
        api_key: env:DEEPSEEK_API_KEY
"""
_SERVED: dict[Mode, tuple[str, str]] = {
    "on-prem": ("document.sizing", _PRIVATE),
    "private-cloud": ("document.sizing", _PRIVATE),
    "container": ("document.sizing", _PRIVATE),
    "hybrid": ("document.hybrid", _BOTH),
    "edge": ("document.edge", _DISTILLED),
    "saas": ("document.saas", _PROVIDER),
}
"""By mode: what is said of the model, and the lines that serve it."""

_SITES: dict[Mode, tuple[tuple[str, str], ...]] = {
    "on-prem": (("site-1", "private"),),
    "private-cloud": (("cloud-1", "private"),),
    "container": (("cluster-1", "private"),),
    "hybrid": (("site-1", "private"), ("cloud-1", "public")),
    "edge": (("edge-1", "edge"),),
    "saas": (),
}

MOST_SWING = 1000.0
"""What `spec.planning.swing` takes."""


def start_document(advice: Advice, words: Catalogue) -> str:
    """The document's text."""
    mode = advice.first
    needs = advice.effective
    said, serving = _SERVED[mode]
    lines = [f"# {words['document.made']}"]
    lines.append(f"# {words['document.advised'].format(mode=words[f'mode.{mode}'])}")
    if needs.profile is not None:
        lines.append(f"# {words['document.profile'].format(profile=words[f'profile.{needs.profile}'])}")
    lines.append(f"# {words[said]}")
    lines += [
        "apiVersion: sextant.dev/v1alpha1",
        "kind: ModelDeployment",
        "metadata:",
        f"  name: {needs.profile or mode}-deepseek",
        "spec:",
        f"  mode: {mode}",
    ]
    if needs.profile is not None:
        lines.append(f"  profile: {needs.profile}")
    lines += [serving.rstrip("\n"), *_workload(needs), *_sites(mode), *_planning(needs, mode)]
    return "\n".join(lines) + "\n"


def _workload(needs: Requirements) -> Iterator[str]:
    stated = [
        (name, getattr(needs, name))
        for name in ("requests_per_s", "input_tokens", "output_tokens")
        if getattr(needs, name) is not None
    ]
    if stated:
        yield "  workload:"
    for name, value in stated:
        yield f"    {name}: {value}"


def _planning(needs: Requirements, mode: Mode) -> Iterator[str]:
    """What `sextant plan` goes by beside the load: swing, the time for an answer, what a month may cost."""
    swing = None if needs.swing is None else min(needs.swing, MOST_SWING)
    stated = [("swing", swing), ("end_to_end_ms", needs.latency_ms or None)]
    said = [f"    {name}: {value:.15g}" for name, value in stated if value is not None]
    if needs.monthly_usd and mode != "saas":
        said.append(f"    costs: {{most_usd_per_month: {needs.monthly_usd:.15g}}}")
    if said:
        yield "  planning:"
        yield from said


def _sites(mode: Mode) -> Iterator[str]:
    if _SITES[mode]:
        yield "  sites:"
    for name, kind in _SITES[mode]:
        yield f"    - name: {name}"
        yield f"      kind: {kind}"
