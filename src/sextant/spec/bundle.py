"""What a deployment is rendered to: files, what must be there first, and what the operator types.

`render/` makes it, `operations/bundles.py` writes it to disk beside a README and a manifest. Pure nouns.
"""

from __future__ import annotations

from typing import Literal

import msgspec

NeedKind = Literal["secret", "storage", "cluster", "program", "image", "network", "account", "hardware"]


class File(msgspec.Struct, frozen=True):
    """One file. `path` is relative to the bundle, with `/` between its parts and no `..` among them."""

    path: str
    content: bytes
    executable: bool = False


class Need(msgspec.Struct, frozen=True):
    """Something the operator must have or make before the bundle works."""

    kind: NeedKind
    name: str
    """For example `Secret sextant/store-password`."""
    why: str
    check: str = ""
    """A command that shows it is there; empty: none."""


class Step(msgspec.Struct, frozen=True):
    """What to type, and why. Commands are run in the bundle's directory."""

    title: str
    commands: tuple[str, ...]
    why: str = ""


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan chose for one model; kept in MANIFEST.json, for whoever checks the bundle."""

    model: str
    """The served model's key: its name, and its pool if it has one."""
    engine: str
    accelerators: int
    """All of them, over all replicas; 0: none."""
    replica: int
    """Accelerators of one replica; 0: none."""
    load_s: float
    """Predicted seconds from start to ready."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as files. README.md and MANIFEST.json are not among them: they are made of the rest."""

    name: str
    mode: str
    files: tuple[File, ...]
    """Sorted by path."""
    needs: tuple[Need, ...]
    install: tuple[Step, ...]
    verify: tuple[Step, ...]
    upgrade: tuple[Step, ...]
    rollback: tuple[Step, ...]
    uninstall: tuple[Step, ...]
    diagram: str
    """Mermaid text."""
    notes: tuple[str, ...] = ()
    """What is unverified or left to the operator, plainly."""
