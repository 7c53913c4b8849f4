"""The mode `saas`: one service for many tenants on a cluster. The private cloud's objects, and beside them
pools of their own for tiers that have them, the portal of tenants' people under a name of its own, objectives
with error budgets, and signs of abuse.

Tiers, prices, metering and balances are kept by the admin API, in PostgreSQL; the bundle's steps set them.
"""

from __future__ import annotations

import shlex

import msgspec

from sextant.base.errors import Unsupported
from sextant.render.dumping import text_file, yaml_file
from sextant.render.kubernetes.bundling import cluster_bundle
from sextant.render.kubernetes.cluster import cluster_of
from sextant.render.kubernetes.objectives import objectives
from sextant.render.kubernetes.portal import portal_needs, portal_notes, portal_objects, portal_steps
from sextant.spec.bundle import Bundle, Need, Step
from sextant.spec.rendering import Order

AGREEMENT = "agreements/data-use.md"
PLAN = "standard"
"""The price plan that accounts are born with."""
FIRST_TOKEN_BUCKETS_S = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds of the first token's histogram that an objective may be counted by (`telemetry/table.py`)."""

_AGREEMENT = """\
# Data use

> A placeholder. It is no legal text: have counsel write it, and fill in what stands in brackets.

Service: {name}. Provider: [legal name, address, contact for data protection].

1. **What is processed.** Prompts and answers are processed to answer a request. Usage rows (tenant, project,
   key, model, tokens, time, no text) are kept {usage_days} days; the audit trail {audit_days} days.
2. **What is not done.** Prompts and answers are not stored by the gateway and not used to train models. [Say
   so only while it is true of every engine and remote endpoint of this deployment.]
3. **Personal data.** Tenants choose a policy: personal data is masked, refused, or sent only to models that
   are cleared for it. [Purpose, legal basis, categories of persons.]
4. **Where.** [Countries and data centres.] Sub-processors: [names; for remote endpoints their operators].
5. **Security.** TLS 1.3 to the gateway; tenants' pools in namespaces of their own; access by role, audited.
6. **Ending.** Export and deletion of a tenant's data: [how long it takes, whom to ask].
"""


def bundle(order: Order) -> Bundle:
    """The bundle. Every pool that a model names, and every quota, has a namespace of its own.

    Raises Unsupported for what cannot run as pods, and for a service or a portal that nobody outside could
    reach."""
    spec = order.deployment.spec
    if spec.delivery.ingress_host is None:
        raise Unsupported(
            "spec.delivery.ingress_host is not set, and callers of a service come from outside the cluster; "
            "write the host name that they call, as `ingress_host: api.example.com`"
        )
    lines = (each.name for each in spec.delivery.quotas)
    named = (*(each.pool for each in spec.served if each.pool), *lines)
    cluster = cluster_of(order, tuple(dict.fromkeys(named)))
    base = cluster_bundle(cluster)
    agreed = spec.portal.agreement is not None
    agreement = _AGREEMENT.format(
        name=order.name, usage_days=order.defaults.usage_days, audit_days=order.defaults.audit_days
    )
    files = (
        *base.files,
        yaml_file("manifests/80-objectives.yaml", objectives(cluster, FIRST_TOKEN_BUCKETS_S)),
        yaml_file("manifests/85-portal.yaml", *portal_objects(cluster)),
        text_file(AGREEMENT, agreement),
    )
    return msgspec.structs.replace(
        base,
        files=tuple(sorted(files, key=lambda file: file.path)),
        needs=(*base.needs, *_needs(spec.delivery.ingress_host, agreed), *portal_needs(cluster)),
        install=(*base.install, *portal_steps(cluster), *_business(order, cluster.namespace)),
        notes=(*base.notes, *_notes(order), *portal_notes(spec.portal)),
    )


def _needs(host: str, agreed: bool) -> tuple[Need, ...]:
    """`agreed`: the document names the operator's own agreement, which is a secret of the gateway's then."""
    placeholder = Need(
        kind="account",
        name=f"A data use agreement, after {AGREEMENT}",
        why="the text here is a placeholder; name yours as spec.portal.agreement, and tenants accept it",
    )
    return (
        Need(
            kind="network",
            name=f"DNS name {host}",
            why="callers reach the load balancer of the service `gateway` under it",
            check=f"getent hosts {host}",
        ),
        Need(
            kind="account",
            name="A certificate for it that callers trust",
            why="the bundle's own authority is known to nobody; set `issuerRef` of the certificate "
            "`gateway-tls` in manifests/20-certificates.yaml",
        ),
        *([] if agreed else [placeholder]),
    )


def _business(order: Order, namespace: str) -> tuple[Step, ...]:
    plan = shlex.quote(order.deployment.spec.portal.plan or PLAN)
    run = f"kubectl -n {namespace} exec deploy/gateway -c gateway -- sextant"
    return (
        Step(
            "Set tiers and prices.",
            (
                f"{run} tier list",
                f"{run} tier set free --limit requests_per_s=5 --limit spend_per_month=10.00",
                f"{run} price list",
            ),
            "Tiers say limits, pools and the availability promised. Numbers are examples; "
            "`price set PLAN MODEL --input 3.00` sets a price.",
        ),
        Step(
            "Make a tenant.",
            (
                f'{run} tenant create "$TENANT" --tier professional --billing prepaid --plan {plan}',
                f'{run} balance top-up "$TENANT" 100.00 --note "first payment"',
                f'{run} key create --tenant "$TENANT" --name first',
            ),
            "The key is shown once. From now on every request of it is metered and charged.",
        ),
        Step(
            "See what a tenant has used and owes.",
            (
                f'{run} balance show "$TENANT"',
                f'{run} usage --by day --by model --tenant "$TENANT"',
                f'{run} invoice "$TENANT" "$(date +%Y-%m)"',
            ),
            "The admin API at the service `admin` gives the same to programs; a tenant's key reads its "
            "balance at `/user/balance`.",
        ),
    )


def _notes(order: Order) -> tuple[str, ...]:
    pools = sorted({each.pool for each in order.deployment.spec.served if each.pool})
    return (
        "A proxy that keeps off floods (a web application firewall, or the cloud's own) belongs in front of "
        "a service that faces the Internet; the gateway's own limits hold for each key and connection.",
        "With spec.scaling.scale_to_zero the shared engines sleep; dedicated pools do not.",
        f"Pools with namespaces of their own: {', '.join(pools) or 'none; every tier shares its engines'}.",
    )
