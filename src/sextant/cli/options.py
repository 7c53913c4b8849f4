"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sextant.cli.values import LIMIT_HELP

State = Annotated[
    Path | None,
    typer.Option(
        "--state", metavar="DIR", help="State directory.", show_default=".sextant or $SEXTANT_STATE"
    ),
]
Limits = Annotated[list[str] | None, typer.Option("--limit", metavar="NAME=VALUE", help=LIMIT_HELP)]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="MODEL", help="A model that may be used, again for more; `all` lifts it."
    ),
]
Tenant = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Only of this tenant.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def state_dir(given: Path | None):  # type: ignore[no-untyped-def]
    """The state directory that a command means."""
    from sextant.app.state import DEFAULT_STATE, STATE_VARIABLE, StateDir
    from sextant.base.config import variable

    if given is not None:
        return StateDir(given)
    named = variable(STATE_VARIABLE)
    return StateDir(Path(named) if named else DEFAULT_STATE)


def models_of(given: list[str] | None) -> list[str] | None:
    """The models that the options name; None: nothing was said, an empty list: all."""
    if not given:
        return None
    return [] if "all" in given else given
