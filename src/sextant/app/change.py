"""What another document changes in a running deployment: which engines start, which stay, which end. Pure.

Flow 2 (deploy), on a stack that runs. Models and their engines are changed without a restart; what processes
are told only when they start, addresses, TLS, bounds, stores, is refused with its name, never half taken.
What counts there is what they were told: the document of the start, and the flags that stood over it.
Neighbour: `swap.py`, which carries a change out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sextant.app.placing import embedded_of
from sextant.app.plan import Flag
from sextant.base.errors import Misconfigured
from sextant.spec.document import Deployment, ModelEntry
from sextant.spec.engine_sections import EmbeddedEngine, RemoteEngine

INFORMS_ONLY = frozenset(
    {"mode", "profile", "workload", "sites", "planning", "scaling", "continuity", "delivery", "training"}
)
"""Parts of `spec` that no process of one host acts on while it runs."""
MODELS = frozenset({"model", "engine", "models"})
NAMED_MAX = 5


class Started(msgspec.Struct, frozen=True):
    """What the processes that stay were told: the document of the start, and flags by the field that they
    stand over, such as `spec.gateway.port`."""

    document: Deployment
    flags: Mapping[str, Flag] = {}


class Change(msgspec.Struct, frozen=True):
    """The way from one document to another."""

    fresh: tuple[int, ...]
    """Models of the new document, by position, that need an engine started."""
    kept: tuple[tuple[int, int], ...]
    """Model of the new document, and the one of the old whose engine goes on for it."""
    gone: tuple[int, ...]
    """Models of the old document whose engines end."""


def what_changes(old: Deployment, new: Deployment, started: Started) -> Change:
    """How to come from `old`, which is served by what was `started`, to `new` without a restart. Raises
    Misconfigured where that cannot be."""
    fixed = _fixed(started, new)
    if fixed:
        more = f" and {len(fixed) - NAMED_MAX} more" if len(fixed) > NAMED_MAX else ""
        named = ", ".join(f"{field}{_by_flag(field, started)}" for field in fixed[:NAMED_MAX])
        raise Misconfigured(
            f"{named}{more} changed, which takes effect at a start only; nothing was changed; run `sextant "
            f"down` and `sextant up` with this document, or put the old value back",
            code="needs_restart",
            field=fixed[0],
        )
    before = {_identity(entry, old): number for number, entry in enumerate(old.spec.served)}
    kept = []
    for number, entry in enumerate(new.spec.served):
        same = before.pop(_identity(entry, new), None)
        if same is not None:
            kept.append((number, same))
    stays = {number for number, _ in kept}
    fresh = tuple(number for number in range(len(new.spec.served)) if number not in stays)
    return Change(fresh, tuple(kept), tuple(sorted(before.values())))


def _identity(entry: ModelEntry, document: Deployment) -> str:
    """What an engine is started with: while it is the same, the engine may go on. An embedded one that is
    given no number of threads has an equal share of the cores: with more or fewer beside it, another one."""
    shares = 0
    if isinstance(entry.engine, EmbeddedEngine) and entry.engine.threads is None:
        shares = embedded_of(document)
    return repr((entry.name, entry.pool, entry.source, entry.engine, shares))


def _fixed(started: Started, new: Deployment) -> list[str]:
    """The fields that differ from what was started with, and cannot change while the deployment runs."""
    found = []
    for name in type(new.spec).model_fields:
        if name not in INFORMS_ONLY | MODELS:
            found += _differing(_plain(started.document, name), _plain(new, name), f"spec.{name}")
    found = [field for field in found if not _stands(field, started, new)]
    known = _environment_keys(started.document)
    for number, entry in enumerate(new.spec.served):
        key = entry.engine.api_key if isinstance(entry.engine, RemoteEngine) else None
        if key is not None and key.startswith(("env:", "sealed:")) and key not in known:
            found.append(f"spec.models.{number}.engine.api_key")
    return found


def _stands(field: str, started: Started, new: Deployment) -> bool:
    """Whether a flag of the start says of `field` what `new` says, or `new` says nothing of it."""
    flag = started.flags.get(field)
    if flag is None:
        return False
    *way, last = field.split(".")
    section: Any = new
    for name in way:
        section = getattr(section, name)
    return last not in section.model_fields_set or getattr(section, last) == flag.value


def _by_flag(field: str, started: Started) -> str:
    flag = started.flags.get(field)
    return f" ({flag.value} is in use, by {flag.name})" if flag else ""


def _environment_keys(document: Deployment) -> set[str | None]:
    """Secrets of the environment that the gateways were started with."""
    return {entry.engine.api_key for entry in document.spec.served if isinstance(entry.engine, RemoteEngine)}


def _plain(document: Deployment, name: str) -> Any:
    value = getattr(document.spec, name)
    return value.model_dump() if hasattr(value, "model_dump") else value


def _differing(old: Any, new: Any, at: str) -> list[str]:
    """The deepest fields that differ."""
    if old == new:
        return []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted({*old, *new}, key=str)
        return [field for name in names for field in _differing(old.get(name), new.get(name), f"{at}.{name}")]
    return [at]
