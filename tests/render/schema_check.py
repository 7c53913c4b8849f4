"""Holds rendered objects to schemas: the strict ones of the folder that `SEXTANT_K8S_SCHEMAS` names, or that
stands beside the repository; else to `kubernetes-validate`, which knows no custom resources.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from sextant.operations.verify.cluster_rules import CLUSTER_RULES
from sextant.operations.verify.findings import Cluster, Fault, judged
from sextant.spec.bundle import Bundle, Need

VERSION = "1.36"
BESIDE = Path(__file__).parents[3] / "shared" / "k8s"

Object = dict[str, Any]


def folder() -> Path | None:
    """Where the strict schemas are; None: nowhere."""
    told = os.environ.get("SEXTANT_K8S_SCHEMAS")
    found = Path(told) if told else BESIDE
    return found if (found / "kvalidate.py").is_file() else None


STRICT = folder() is not None
WHY_NOT_STRICT = (
    "no strict schemas of custom resources: set SEXTANT_K8S_SCHEMAS to a folder with kvalidate.py"
)


def faults_of(body: Object) -> list[str]:
    """What its schema says against an object; nothing for a custom resource where schemas of those are
    missing."""
    check = _strict()
    return check(body) if check is not None else _plain(body)


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


@functools.cache
def _strict() -> Callable[[Object], list[str]] | None:
    place = folder()
    if place is None:
        return None
    spec = importlib.util.spec_from_file_location("kvalidate", place / "kvalidate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check: Callable[[Object], list[str]] = module.check
    return check


def _plain(body: Object) -> list[str]:
    try:
        kubernetes_validate.validate(body, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    except kubernetes_validate.SchemaNotFoundError:
        return []
    return []


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    """The objects of that kind."""
    return [body for body in objects if body["kind"] == kind]
