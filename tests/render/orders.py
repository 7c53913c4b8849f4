"""Orders and documents for tests of rendering: what the command line would hand to a renderer."""

from __future__ import annotations

import json

import yaml

from sextant.operations.bundles import order_of
from sextant.spec.document import parse_document
from sextant.spec.rendering import Order

EMBEDDED = {"model": {"name": "sextant-nano"}, "engine": {"kind": "embedded"}}
R1 = {
    "model": {"name": "deepseek-r1", "source": "hf:deepseek-ai/DeepSeek-R1"},
    "engine": {"kind": "vllm"},
    "sites": [{"name": "hall-1", "accelerators": [{"name": "H200", "count": 16}]}],
}
DISTILLED = {
    "model": {"name": "r1-7b", "source": "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"},
    "engine": {"kind": "vllm"},
    "sites": [{"name": "hall-1", "accelerators": [{"name": "L40S", "count": 4}]}],
}


def document(mode: str, name: str = "bank", **spec: object) -> str:
    """A document of that mode as text; `spec` is the rest of `spec`."""
    whole = {
        "apiVersion": "sextant.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"mode": mode, **spec},
    }
    return yaml.safe_dump(json.loads(json.dumps(whole)), sort_keys=False)


def order(mode: str, name: str = "bank", **spec: object) -> Order:
    """The order of such a document."""
    return order_of(parse_document(document(mode, name, **spec)))
