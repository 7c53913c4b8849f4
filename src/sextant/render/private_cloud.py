"""The mode `private-cloud`: a Kubernetes cluster of one's own, on OpenStack, VMware or bare machines.

`cluster/` is the administrator's: what belongs to no namespace or to somebody else's. `manifests/` is the
deployment itself. `optional/` is not applied unless the operator wants it.
"""

from __future__ import annotations

from sextant.render.kubernetes.bundling import cluster_bundle
from sextant.render.kubernetes.cluster import cluster_of
from sextant.spec.bundle import Bundle
from sextant.spec.rendering import Order


def bundle(order: Order) -> Bundle:
    """The bundle. Lines of business (`spec.delivery.quotas`) get namespaces of their own.

    Raises Unsupported for what cannot run as pods, or does not fit the lines' shares."""
    pools = tuple(quota.name for quota in order.deployment.spec.delivery.quotas)
    return cluster_bundle(cluster_of(order, pools))
