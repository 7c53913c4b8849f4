"""What checking a bundle says: faults, what ran, what did not and why. Nouns of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from sextant.spec.bundle import Need, Planned

Object = dict[str, Any]
"""A Kubernetes object as read from YAML."""


class Fault(msgspec.Struct, frozen=True):
    """Something wrong in a bundle, found by a rule of ours (`SX-V…`) or by a validator (its name)."""

    rule: str
    what: str
    action: str
    """What to do about it."""
    path: str = ""
    """The file, where it is in one."""


class Ran(msgspec.Struct, frozen=True):
    """A check that ran, and over how many things."""

    check: str
    count: int
    of: str
    """What was counted, for example `objects`."""


class NotRun(msgspec.Struct, frozen=True):
    """A check that had something to look at here and did not run."""

    check: str
    why: str


class Noted(msgspec.Struct, frozen=True):
    """What a rule lets through because the bundle declares it, with the reason that it gives."""

    rule: str
    what: str
    why: str


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one cluster is given, looked at together."""

    objects: list[Object]
    needs: tuple[Need, ...] = ()
    planned: tuple[Planned, ...] | None = None
    """None: it is not known what was planned."""
    folder: str = ""
    """Of the bundle; empty: its top."""
    optional: tuple[Object, ...] = ()
    """Those of the objects that are alternatives, which nobody applies with the rest."""


class Rule(msgspec.Struct, frozen=True):
    """One thing that must hold in a cluster's objects."""

    id: str
    sentence: str
    action: str
    find: Callable[[Cluster], Iterable[str]]
    """Yields what is wrong, a sentence each."""


class Reached(msgspec.Struct, frozen=True):
    """Which cluster is asked, and for which part of a bundle for several."""

    context: str = ""
    """kubectl's; empty: its own."""
    site: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What one check came to."""

    faults: tuple[Fault, ...] = ()
    ran: tuple[Ran, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    noted: tuple[Noted, ...] = ()
    unpinned: tuple[str, ...] = ()
    """Images that are named by tag and not by digest: allowed, and listed."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that checking a bundle came to."""

    name: str
    mode: str
    faults: tuple[Fault, ...]
    ran: tuple[Ran, ...]
    not_run: tuple[NotRun, ...]
    noted: tuple[Noted, ...]
    unpinned: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything that could be looked at was."""
        return not self.not_run


def judged(rules: Iterable[Rule], cluster: Cluster) -> Iterator[Fault]:
    """What the rules find in a cluster. An object too far from its kind's shape is itself a fault."""
    for rule in rules:
        try:
            found = list(rule.find(cluster))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            found = [f"cannot be judged: an object lacks or mistypes {error}"]
        where = f"{cluster.folder}/" if cluster.folder else ""
        yield from (Fault(rule.id, what, rule.action, where) for what in found)


def label_text(labels: Mapping[str, str]) -> str:
    """Labels as a selector writes them."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
