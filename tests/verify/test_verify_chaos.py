"""Chaos Mesh's experiments against the fields of its CRDs, which no collection of schemas at hand has.

Written down from config/crd/bases of chaos-mesh/chaos-mesh (podchaos, networkchaos) on 2026-11-22, as far as
bundles use them; an unknown field is a fault.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.render.orders import document
from tests.render.test_kubernetes_hybrid import HYBRID
from tests.verify.bundles_under_test import rendered

Object = dict[str, Any]
TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
DURATION = {"type": "string", "pattern": r"^(\d+(\.\d+)?(ns|us|ms|s|m|h))+$"}
NUMBER = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}
MODE = {"enum": ["one", "all", "fixed", "fixed-percent", "random-max-percent"]}


def closed(required: tuple[str, ...], **fields: object) -> Object:
    """An object of those fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


LABELS = {"type": "object", "additionalProperties": TEXT, "minProperties": 1}
SELECTOR = closed(("namespaces", "labelSelectors"), namespaces=TEXTS, labelSelectors=LABELS)
ANY = {"mode": MODE, "value": NUMBER, "selector": SELECTOR, "duration": DURATION}
POD = closed(
    ("action", "mode", "selector"),
    **ANY,
    action={"enum": ["pod-kill", "pod-failure", "container-kill"]},
    gracePeriod={"type": "integer", "minimum": 0},
    containerNames=TEXTS,
)
NETWORK = closed(
    ("action", "mode", "selector"),
    **ANY,
    action={"enum": ["netem", "delay", "loss", "duplicate", "corrupt", "partition", "bandwidth"]},
    direction={"enum": ["to", "from", "both"]},
    externalTargets=TEXTS,
    target=closed(("mode", "selector"), mode=MODE, selector=SELECTOR),
    delay=closed(("latency",), latency=DURATION, jitter=DURATION, correlation=NUMBER),
    loss=closed(("loss", "correlation"), loss=NUMBER, correlation=NUMBER),
)
NEEDED = {"delay": "delay", "loss": "loss"}
"""The part that an action of NetworkChaos goes by."""


def faults_of(body: Object) -> list[str]:
    """What its schema and the rules of Chaos Mesh's own webhook say against an experiment."""
    spec = body["spec"]
    schema = {"PodChaos": POD, "NetworkChaos": NETWORK}[body["kind"]]
    found = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(spec)]
    part = NEEDED.get(spec.get("action", ""))
    if part is not None and part not in spec:
        found.append(f"the action {part} is not described")
    if spec.get("externalTargets") and spec.get("direction") != "to":
        found.append("external targets go with the direction `to` alone")
    return found


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    bundle = rendered(document("hybrid", **HYBRID), tmp_path_factory.mktemp("hybrid"))
    return [
        body
        for path in sorted(Path(bundle).rglob("*.yaml"))
        for body in yaml.safe_load_all(path.read_text())
        if body and str(body.get("apiVersion", "")).startswith("chaos-mesh.org/")
    ]


def test_experiments_have_fields_that_chaos_mesh_knows(experiments: list[Object]) -> None:
    assert {body["kind"] for body in experiments} == {"PodChaos", "NetworkChaos"}
    assert len(experiments) >= 6, "three or four for each site"
    for body in experiments:
        assert body["apiVersion"] == "chaos-mesh.org/v1alpha1"
        assert faults_of(body) == [], body["metadata"]["name"]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("PodChaos", {"action": "kill-pod"}),
        ("PodChaos", {"durations": "30s"}),
        ("NetworkChaos", {"direction": "from"}),
        ("NetworkChaos", {"delay": {"latencyMs": 10}}),
        ("NetworkChaos", {"duration": "5 minutes"}),
        ("NetworkChaos", {"selector": {"namespaces": ["a"]}}),
    ],
)
def test_a_wrong_field_is_found(experiments: list[Object], kind: str, change: Object) -> None:
    body = copy.deepcopy(next(body for body in experiments if body["kind"] == kind))
    body["spec"].update(change)
    assert faults_of(body)
