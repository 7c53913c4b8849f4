"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path | None,
    typer.Option(
        "--state", metavar="DIR", help="State directory.", show_default=".sextant or $SEXTANT_STATE"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def state_dir(given: Path | None):  # type: ignore[no-untyped-def]
    """The state directory that a command means."""
    from sextant.app.state import DEFAULT_STATE, STATE_VARIABLE, StateDir
    from sextant.base.config import variable

    if given is not None:
        return StateDir(given)
    named = variable(STATE_VARIABLE)
    return StateDir(Path(named) if named else DEFAULT_STATE)
