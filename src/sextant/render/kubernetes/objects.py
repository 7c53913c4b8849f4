"""What all Kubernetes objects of a bundle have in common: names, labels, selectors, quantities.

An object is a plain mapping as the API server takes it. Neighbours: every other file of this package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from sextant.base.errors import Unsupported

Object = dict[str, Any]

GIB = 1 << 30
NAME_CHARS = 63
"""The most of a DNS label, which names of services and values of labels must be."""
MODEL_LABEL = "sextant.dev/model"
POOL_LABEL = "sextant.dev/pool"
ROLE_LABEL = "sextant.dev/role"
"""Leader or worker of an engine's replica."""
ACCELERATORS = "sextant.dev/accelerators"
"""Annotation: accelerators of an engine's planned replicas, all together."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the bundle that runs as pods: what selects them."""

    instance: str
    """Name of the deployment."""
    namespace: str
    component: str
    """gateway, engine, weights, …"""
    model: str = ""
    """`ServedModel.key`, where it belongs to one."""

    @property
    def selector(self) -> dict[str, str]:
        """Labels that its pods alone carry."""
        own = {"app.kubernetes.io/instance": self.instance, "app.kubernetes.io/component": self.component}
        return {**own, MODEL_LABEL: self.model} if self.model else own

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its objects and pods."""
        return {
            "app.kubernetes.io/name": "sextant",
            **self.selector,
            "app.kubernetes.io/part-of": "sextant",
            "app.kubernetes.io/managed-by": "sextant-render",
        }

    @property
    def name(self) -> str:
        """Of its objects."""
        return dns_label(f"{self.component}-{self.model}" if self.model else self.component)


def made(kind: str, part: Part, spec: Mapping[str, Any] | None = None, *, name: str = "") -> Object:
    """An object of that part in its namespace. `kind` is `apiVersion/Kind`."""
    version, _, kind = kind.rpartition("/")
    body: Object = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name or part.name, "namespace": part.namespace, "labels": part.labels},
    }
    return body if spec is None else {**body, "spec": dict(spec)}


def cluster_wide(kind: str, name: str, instance: str, spec: Mapping[str, Any] | None = None) -> Object:
    """An object that belongs to no namespace. `kind` is `apiVersion/Kind`."""
    version, _, kind = kind.rpartition("/")
    labels = {
        "app.kubernetes.io/name": "sextant",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/part-of": "sextant",
        "app.kubernetes.io/managed-by": "sextant-render",
    }
    body: Object = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}}
    return body if spec is None else {**body, "spec": dict(spec)}


def dns_label(text: str) -> str:
    """`text` as a name for services and label values. Raises Unsupported where it is too long for one."""
    name = text.replace(".", "-").strip("-")
    if len(name) > NAME_CHARS:
        raise Unsupported(
            f"`{name}` has {len(name)} characters, and names in Kubernetes at most {NAME_CHARS}; shorten the "
            f"model's name or its pool's"
        )
    return name


def gibibytes(amount_bytes: float) -> str:
    """A quantity of memory or storage, rounded up to whole GiB, at least one."""
    return f"{max(1, math.ceil(amount_bytes / GIB))}Gi"


def cores(amount: float) -> str:
    """A quantity of CPU."""
    return str(int(amount)) if amount == int(amount) else f"{int(amount * 1000)}m"
