"""The words that a gateway worker and the ledger process exchange over their unix socket.

A frame is four bytes of length (big-endian, of what follows) and one msgpack message:

    client                                ledger
    Hello(version, name)        ->
                                <-        Welcome(version), or Refusal(0, reason, retryable=False) and a close
    Batch(seq, policy_version, rows) ->
    Post(seq, transfers)        ->
    Ask(seq, scopes)            ->
    Deliver(seq, delivery)      ->
                                <-        Ack(seq, standings)   after COMMIT and fsync
                                          Delivered(seq, answer)   to a Deliver, likewise
                                          Refusal(seq, reason, retryable)   nothing of it was kept

The standings are those of the scopes that the message touches or asks for; of a scope that the books do not
know they are zeros with version 0.

Any change to a message, `UsageRow`, `Transfer` or `Standing` raises `WIRE_VERSION`; both sides refuse another
version.
Neighbours: `sextant.governance.ledger_client` and `sextant.store.ledger`, which never import each other.
"""

from __future__ import annotations

import msgspec

from sextant.spec.policy import Standing
from sextant.spec.sites import SiteAnswer, SiteRow
from sextant.spec.transfer import Transfer
from sextant.spec.usage import UsageRow

WIRE_VERSION = 3
FRAME_BYTES_MAX = 4 * 1024 * 1024
"""A longer frame is garbage: the connection is closed."""
LENGTH_BYTES = 4

SCOPES_MAX = 4096
"""Scopes in one `Ask`."""
TRANSFERS_MAX = 1024
"""Transfers in one `Post`."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    version: int
    name: str


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    version: int


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    """As the ledger reads it. `policy_version` is of the policy that its requests were admitted by: a ledger
    that has an older one reads the newer first."""

    seq: int
    policy_version: int
    rows: list[UsageRow]


class PackedBatch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    """The same message as the client writes it: each row was encoded when its request settled."""

    seq: int
    policy_version: int
    rows: list[msgspec.Raw]


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """For the present standings of `scopes`, at most `SCOPES_MAX`."""

    seq: int
    scopes: list[str]


class Post(msgspec.Struct, frozen=True, array_like=True, tag="post"):
    """Transfers that are kept all or none, each once however often it is sent; at most `TRANSFERS_MAX`."""

    seq: int
    transfers: list[Transfer]


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """Rows of a site, at most `sites.ROWS_MAX`, kept all or none, each once however often they come.

    `tenants` says which tenant here a tenant of the site is; rows of others are held. `follows`: the rows
    must follow on `after_id`, and are the new end of what has come from the site; false for rows that were
    held and are given once more."""

    site_id: str
    arrived_ms: int
    after_id: str
    rows: list[SiteRow]
    tenants: dict[str, str]
    follows: bool = True


class Deliver(msgspec.Struct, frozen=True, array_like=True, tag="deliver"):
    seq: int
    delivery: Delivery


class Delivered(msgspec.Struct, frozen=True, array_like=True, tag="delivered"):
    seq: int
    answer: SiteAnswer


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    seq: int
    standings: list[Standing] = []


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refusal"):
    """Nothing of message `seq` was kept (0: no message, the connection itself is refused). Retryable: the
    same may succeed later (disk full); otherwise at least one of its rows or transfers never will."""

    seq: int
    reason: str
    retryable: bool


class BadFrame(Exception):
    """The peer sent something that is no message of this protocol; close the connection."""


class FrameBuffer:
    """Cuts a byte stream into frame bodies; holds at most one unfinished frame and what came with it."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._frame_bytes_max = frame_bytes_max

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The bodies completed by `data`, oldest first. Raises BadFrame on an impossible length."""
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            body_start = start + LENGTH_BYTES
            length = int.from_bytes(buffer[start:body_start], "big")
            if not 0 < length <= self._frame_bytes_max:
                raise BadFrame(f"frame of {length} bytes; allowed are 1 to {self._frame_bytes_max}")
            if len(buffer) < body_start + length:
                break
            start = body_start + length
            bodies.append(bytes(buffer[body_start:start]))
        if start:
            del buffer[:start]
        return bodies


def frame(body: bytes) -> bytes:
    """`body` with its length in front."""
    return len(body).to_bytes(LENGTH_BYTES, "big") + body
