"""The small answers: the list of models, the balance, health and readiness.

Flow 1 (serve), off the hot path. Pure: each function turns state into a body. Neighbour: `app.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sextant.gateway.router import ModelRoute, RouteIndex, View
from sextant.spec.policy import NANO

_encode = msgspec.json.Encoder().encode


def model_object(route: ModelRoute, name: str) -> dict[str, Any]:
    """OpenAI's model object under `name`, which may be an alias."""
    served = route.served
    return {"id": name, "object": "model", "created": served.created_s, "owned_by": served.owned_by}


def models_body(view: View) -> bytes:
    """Every name that is accepted, aliases included."""
    data = [model_object(route, name) for name, route in view.by_name.items()]
    return _encode({"object": "list", "data": data})


def model_body(route: ModelRoute, name: str) -> bytes:
    return _encode(model_object(route, name))


def balance_body(currency: str, funds_nano: int | None) -> bytes:
    """DeepSeek's balance object, whose clients read the first entry: there is always one. Without
    prepayment (None) there is nothing in it, and calls are available."""
    shown = _amount(funds_nano or 0)
    info = {
        "currency": currency,
        "total_balance": shown,
        "granted_balance": _amount(0),
        "topped_up_balance": shown,
    }
    available = funds_nano is None or funds_nano > 0
    return _encode({"is_available": available, "balance_infos": [info]})


def _amount(nano: int) -> str:
    """Billionths as a decimal with two places, rounded down, as DeepSeek writes it."""
    cents = abs(nano) // (NANO // 100)
    return f"{'-' if nano < 0 else ''}{cents // 100}.{cents % 100:02d}"


class Governance(msgspec.Struct, frozen=True):
    """What readiness wants to know of governance: whether usage can be made durable, whether limits can be
    checked, and what is wrong with them; and why this gateway cannot prove to engines who it is, if so."""

    ledger: bool
    limits: bool
    remark: str
    identity: str = ""


def readiness(index: RouteIndex, governance: Governance, model: str | None = None) -> tuple[bool, bytes]:
    """Whether this worker can serve anything, or `model` where one is named, and the body that says what each
    model has. One dead model among several leaves the worker ready: taking it out of a load balancer would
    stop the others too; `degraded` says so. Raises NotFound for an unknown `model`."""
    routes = index.routes if model is None else index.named(model)
    serves = any(_answers(route, governance.identity) for route in routes)
    ready = serves and governance.ledger and governance.limits
    reasons = []
    if not routes:
        reasons.append("no model is served")
    elif not serves:
        reasons.append("no engine is ready")
    if not governance.ledger:
        reasons.append("usage cannot be made durable")
    if governance.remark:
        reasons.append(governance.remark)
    if governance.identity:
        reasons.append(governance.identity)
    remarks = bool(governance.remark or governance.identity)
    return ready, _encode(
        {
            "ready": ready,
            "degraded": ready and (remarks or not all(route.ready for route in routes)),
            "reasons": reasons,
            "ledger": governance.ledger,
            "limits": governance.limits,
            "models": [_standing(route) for route in routes],
        }
    )


def _answers(route: ModelRoute, nameless: str) -> bool:
    """Whether an engine of it can be asked; `nameless` rules out those that want to know who asks."""
    if not nameless:
        return route.ready
    return any(target.ready and target.upstream.peer_id is None for target in route.targets)


def _standing(route: ModelRoute) -> dict[str, Any]:
    """A model's engines, and how busy they are."""
    upstreams = [
        {
            "id": target.upstream.id,
            "ready": target.ready,
            **({"reason": target.reason} if target.reason else {}),
        }
        for target in route.targets
    ]
    gate = route.gate
    return {
        "id": route.served.id,
        **({"pool": route.served.pool} if route.served.pool else {}),
        "ready": route.ready,
        "running": gate.active,
        "waiting": gate.waiting,
        "places": gate.places,
        "upstreams": upstreams,
    }
