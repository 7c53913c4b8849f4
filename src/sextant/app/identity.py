"""Who this deployment is, as its identity process has written it down: read by gateways and the supervisor.

Neighbours: `identity_process.py` writes the file, `security/spiffe.py` makes TLS of it.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from sextant.security.spiffe import Identity, Peers

_log = logging.getLogger(__name__)


class IdentityWatch:
    """The file at `path`, handed to `peers` whenever it says something new. `on_change` is called after that,
    and when the certificate has ended: connections are then to be made anew."""

    def __init__(self, path: str | Path, peers: Peers, on_change: Callable[[], None] = lambda: None) -> None:
        self.peers = peers
        self._path = Path(path)
        self._on_change = on_change
        self._seen: tuple[int, int] | None = None
        self._had_one = False

    def poll(self) -> None:
        """Looks at the file: two microseconds where nothing has changed. A file that is not there yet is
        nothing new; one that cannot be used is logged once, and the last identity stays."""
        try:
            status = self._path.stat()
        except OSError:
            return
        seen = (status.st_mtime_ns, status.st_ino)
        if seen != self._seen:
            self._seen = seen
            self._read()
        has_one = not self.peers.remark()
        if self._had_one and not has_one:
            _log.error("%s", self.peers.remark())
            self._on_change()
        self._had_one = has_one

    def _read(self) -> None:
        former = self.peers.identity
        try:
            self.peers.take(msgspec.json.decode(self._path.read_bytes(), type=Identity))
        except (OSError, msgspec.DecodeError) as error:
            _log.error("the identity %s cannot be used, the last one stays: %s", self._path, error)
            return
        now = self.peers.identity
        if (now.svid_file, now.bundles) != (former.svid_file, former.bundles):
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now.expires_s))
            _log.info("we are %s until %s", now.spiffe_id, until)
            self._on_change()


def said_to_anybody(peers: Peers) -> str:
    """Why no peer can be shown who asks, for callers who need not know ids and sockets: those stand in the
    log and in the status. Empty while there is something to show."""
    return "this gateway cannot show engines who asks; its log and status say why" if peers.remark() else ""


class KnownPeer:
    """One peer by its SPIFFE id, for probes."""

    def __init__(self, watch: IdentityWatch, peer_id: str) -> None:
        self._watch = watch
        self._peer_id = peer_id

    def context(self) -> ssl.SSLContext:
        """What to connect with. Raises OSError while there is nothing to show."""
        self._watch.poll()
        return self._watch.peers.context(self._peer_id)

    def check(self, connection: ssl.SSLObject) -> None:
        """Raises OSError when somebody else answered."""
        self._watch.peers.check(self._peer_id, connection)
