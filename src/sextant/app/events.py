"""What the supervisor tells whoever watches a start: the terminal, or the parent of a detached one.

Each event is plain data, so that a detached supervisor can send them as JSON lines.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sextant.app.bootstrap import FirstRun


class Changed(msgspec.Struct, frozen=True, tag=True):
    """A process came to another state."""

    name: str
    state: str
    reason: str
    restarts: int
    after_s: float


class Warned(msgspec.Struct, frozen=True, tag=True):
    """Something that the user should know and that stops nothing."""

    text: str


class Serving(msgspec.Struct, frozen=True, tag=True):
    """Everything answers. `first_run` holds credentials to show once."""

    url: str
    control_url: str
    model: str
    state_dir: str
    after_s: float
    not_ready: tuple[str, ...] = ()
    first_run: FirstRun | None = None


class Stopping(msgspec.Struct, frozen=True, tag=True):
    grace_s: float


class Stopped(msgspec.Struct, frozen=True, tag=True):
    pass


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The start failed; everything that was started has been stopped."""

    message: str


Event = Changed | Warned | Serving | Stopping | Stopped | Failed
Tell = Callable[[Event], None]
