"""The route table that the gateway reads, kept in step with what the supervisor sees.

Flow 3 (release) will write releases here too; today a model has one replica. `RouteBook.publish` writes
`routes.json` whole (temporary file, then rename) under a version that only grows, across restarts as well.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sextant.app.state import write_private
from sextant.spec.snapshot import RouteTable, ServedModel


class Verdict(msgspec.Struct, frozen=True):
    """The supervisor's view of one upstream."""

    ready: bool
    reason: str = ""


class RouteBook:
    """Models as planned, and which of their upstreams are ready."""

    def __init__(self, path: Path, models: tuple[ServedModel, ...]) -> None:
        self._path = path
        self._models = models
        self._verdicts: dict[str, Verdict] = {}
        self._published: dict[str, Verdict] | None = None
        self._version = time.time_ns() // 1_000_000

    def set(self, verdicts: Mapping[str, Verdict]) -> None:
        """Takes the present verdicts by upstream id, and publishes what is not published yet. Raises
        OSError."""
        self._verdicts = dict(verdicts)
        if self._verdicts != self._published:
            self.publish()

    def serve(self, models: tuple[ServedModel, ...]) -> int:
        """Publishes a table of `models` instead; its version. Raises OSError, and then nothing has
        changed."""
        before, self._models = self._models, models
        try:
            self.publish()
        except OSError:
            self._models = before
            raise
        return self._version

    def publish(self) -> None:
        """Writes the table as of now under a new version. Raises OSError; the next `set` then tries again."""
        self._published = None
        self._version += 1
        write_private(self._path, msgspec.json.encode(self.table()))
        self._published = dict(self._verdicts)

    def table(self) -> RouteTable:
        """The table as of now; an upstream without a verdict is not ready yet."""
        return RouteTable(self._version, tuple(_judged(model, self._verdicts) for model in self._models))


def _judged(model: ServedModel, verdicts: Mapping[str, Verdict]) -> ServedModel:
    unknown = Verdict(ready=False, reason="it is starting")
    upstreams = tuple(
        msgspec.structs.replace(upstream, ready=verdict.ready, reason=verdict.reason)
        for upstream in model.upstreams
        for verdict in (verdicts.get(upstream.id, unknown),)
    )
    return msgspec.structs.replace(model, upstreams=upstreams)
