"""Polling the two snapshots: a new version is decoded whole and handed over; a bad file changes nothing.

Flow 1 (serve): the gateway process calls `SnapshotFile.poll` every 200 ms. A stat costs two microseconds, so
a version is in use well under a second after its rename.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from sextant.base.errors import Misconfigured

POLL_INTERVAL_S = 0.2


class Versioned(Protocol):
    """A snapshot: its version tells two of them apart."""

    @property
    def version(self) -> int: ...


Snapshot = TypeVar("Snapshot", bound=Versioned)
_log = logging.getLogger(__name__)


class SnapshotFile(Generic[Snapshot]):
    """One snapshot file. `swap` is called with each new version, in the caller's thread."""

    def __init__(self, path: str, kind: type[Snapshot], swap: Callable[[Snapshot], object]) -> None:
        self._path = Path(path)
        self._decoder: msgspec.json.Decoder[Snapshot] = msgspec.json.Decoder(kind)
        self._swap = swap
        self._seen: tuple[int, int, int] | None = None
        self._version: int | None = None

    def load(self) -> Snapshot:
        """The file's present content, remembered as seen. Raises Misconfigured when it cannot be used."""
        try:
            self._seen = self._signature()
            snapshot = self._decoder.decode(self._path.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            raise Misconfigured(f"the snapshot {self._path} cannot be read: {error}") from None
        self._version = snapshot.version
        return snapshot

    def poll(self) -> None:
        """Hands over a new version, if there is one. A file that cannot be used is logged once and left."""
        try:
            signature = self._signature()
            if signature == self._seen:
                return
            self._seen = signature
            snapshot = self._decoder.decode(self._path.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            _log.error("the snapshot %s cannot be used, the last one stays: %s", self._path, error)
            return
        if snapshot.version != self._version:
            self._version = snapshot.version
            try:
                self._swap(snapshot)
            except Exception:  # noqa: BLE001 - the edge of one version: later ones must still be taken
                _log.exception("the snapshot %s could not be taken, the last one stays", self._path)

    def _signature(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_ino, status.st_size
