"""Holds rendered objects to schemas: the strict ones of the folder that `SEXTANT_K8S_SCHEMAS` names, or that
stands beside the repository; else to `kubernetes-validate`, which knows no custom resources.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from sextant.operations.verify.cluster_programs import Schemas
from sextant.operations.verify.cluster_rules import CLUSTER_RULES
from sextant.operations.verify.findings import Cluster, Fault, judged
from sextant.operations.verify.schemas import PlainSchemas, StrictSchemas
from sextant.spec.bundle import Bundle, Need

BESIDE = Path(__file__).parents[3] / "shared" / "k8s"

Object = dict[str, Any]


def folder() -> Path | None:
    """Where the strict schemas are; None: nowhere."""
    told = os.environ.get("SEXTANT_K8S_SCHEMAS")
    found = Path(told) if told else BESIDE
    return found if any(found.glob("**/kubernetes-*.json")) else None


STRICT = folder() is not None
WHY_NOT_STRICT = "no strict schemas of custom resources: set SEXTANT_K8S_SCHEMAS to a folder of them"


@functools.cache
def schemas() -> Schemas:
    """Those that the product would take here, read once."""
    place = folder()
    return StrictSchemas(place) if place is not None else PlainSchemas()


def faults_of(body: Object) -> list[str]:
    """What its schema says against an object; nothing for a custom resource where schemas of those are
    missing."""
    said = schemas().judge(body)
    if said is None:
        return [f"no schema for {body['apiVersion']} {body['kind']}"] if STRICT else []
    return said


def objects_of(bundle: Bundle) -> list[Object]:
    """Every object of a bundle's YAML files."""
    return [
        body
        for file in bundle.files
        if file.path.endswith(".yaml")
        for body in yaml.safe_load_all(file.content)
        if body
    ]


def faults_among(objects: list[Object], needs: tuple[Need, ...]) -> list[Fault]:
    """What our rules find in one cluster's objects; an autoscaler of Kubernetes' own is the alternative."""
    spare = tuple(body for body in objects if body["kind"] == "HorizontalPodAutoscaler")
    return list(judged(CLUSTER_RULES, Cluster(objects=objects, needs=needs, optional=spare)))


def trigger_faults(scaled: Object) -> list[str]:
    """Parameters of a ScaledObject's triggers that KEDA's scalers do not have, or miss."""
    place = folder()
    if place is None:
        return []
    table = json.loads((place / "schemas" / "keda-scalers.json").read_text())
    known = {scaler["type"]: scaler["parameters"] for scaler in table["scalers"]}
    found = []
    for trigger in scaled["spec"]["triggers"]:
        parameters = {each["name"]: each for each in known.get(trigger["type"], ())}
        found += [f"unknown {name}" for name in trigger["metadata"] if name not in parameters]
        found += [
            f"missing {name}"
            for name, each in parameters.items()
            if not each.get("optional") and "default" not in each and name not in trigger["metadata"]
        ]
    return found


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    """The objects of that kind."""
    return [body for body in objects if body["kind"] == kind]
