"""Parameters of each model as ConfigMaps that never change, one for each version.

A version is three numbers: those at the end of the model's name (`r1-7b-1.1.0`), else those of its source's
revision (`hf:org/name@v1.1.0`), else 1.0.0. Names of ConfigMaps end in a digest of what they hold, so another
set of parameters is another ConfigMap and another set of pods, and the one before it stays to go back to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from sextant.render.kubernetes.cluster import Workload
from sextant.render.kubernetes.objects import Object, made

FIRST = "1.0.0"
VERSION_LABEL = "sextant.dev/model-version"
FOLDER = "/etc/sextant-model"
ARGUMENTS = "arguments"
"""Key with the command line, one argument a line."""
START = 'set --; while IFS= read -r each || [ -n "$each" ]; do set -- "$@" "$each"; done < "$0"; exec "$@"'
"""Runs the command line that stands in the file it is given, one argument a line; nothing is expanded."""
_NAMED = re.compile(r"^(?P<base>.+?)-v?(?P<version>\d{1,4}\.\d{1,4}\.\d{1,4})$")
_REVISED = re.compile(r"@v?(?P<version>\d{1,4}\.\d{1,4}\.\d{1,4})(?::|$)")


class ModelVersion(msgspec.Struct, frozen=True):
    """Which model a workload serves, and which version of it."""

    base: str
    """Name without the version, fit for objects."""
    version: str


def version_of(workload: Workload) -> ModelVersion:
    """The model's name and version, as the document says them."""
    entry = workload.served.entry
    named = _NAMED.match(entry.name)
    if named is not None:
        base = re.sub(r"[^a-z0-9]+", "-", named["base"].lower()).strip("-")
        return ModelVersion(base, named["version"])
    revised = _REVISED.search(entry.source or "")
    return ModelVersion(workload.served.key, revised["version"] if revised else FIRST)


def parameters(workload: Workload) -> Mapping[str, str]:
    """What is set of the model, by key of its ConfigMap."""
    entry, option = workload.served.entry, workload.served.option
    layout = option.layout if option is not None else None
    return {
        "model": entry.name,
        "version": version_of(workload).version,
        "source": entry.source or "",
        "engine": workload.kind,
        "context-tokens": str(workload.served.context_tokens),
        "kv-precision": workload.served.kv_precision,
        "tensor-parallel": str(layout.tp if layout is not None else 1),
        ARGUMENTS: "".join(f"{each}\n" for each in workload.command.argv),
    }


def map_name(workload: Workload) -> str:
    """Of its ConfigMap: model, version, start of the digest of what it holds."""
    told = "\0".join(f"{key}={value}" for key, value in parameters(workload).items())
    found = version_of(workload)
    return f"model-{found.base}-{found.version}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def configuration(workload: Workload) -> Object:
    """The ConfigMap. Argo CD leaves it when a newer one takes its place."""
    body = made("v1/ConfigMap", workload.part, name=map_name(workload))
    body["metadata"]["labels"] = {**workload.part.labels, VERSION_LABEL: version_of(workload).version}
    body["metadata"]["annotations"] = {"argocd.argoproj.io/sync-options": "Prune=false"}
    body["immutable"] = True
    body["data"] = dict(parameters(workload))
    return body


def is_driven(workload: Workload) -> bool:
    """Whether its command line can come from the ConfigMap: one machine, a command line of its own whose
    arguments have no line breaks and name no variables of the pod."""
    argv = workload.command.argv
    return workload.nodes == 1 and bool(argv) and not any("\n" in each or "$(" in each for each in argv)


def driven(workload: Workload, template: Object) -> Object:
    """The pods' template, started with the parameters of the ConfigMap."""
    spec = template["spec"]
    name = map_name(workload)
    mount = {"name": "model", "mountPath": FOLDER, "readOnly": True}
    first, *others = spec["containers"]
    started = ["/bin/sh", "-eu", "-c", START, f"{FOLDER}/{ARGUMENTS}"]
    first = {**first, "command": started, "volumeMounts": [*first["volumeMounts"], mount]}
    labels = {**template["metadata"]["labels"], VERSION_LABEL: version_of(workload).version}
    return {
        "metadata": {**template["metadata"], "labels": labels},
        "spec": {
            **spec,
            "containers": [first, *others],
            "volumes": [*spec["volumes"], {"name": "model", "configMap": {"name": name}}],
        },
    }
