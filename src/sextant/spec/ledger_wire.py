"""The words that a gateway worker and the ledger process exchange over their unix socket.

A frame is four bytes of length (big-endian, of what follows) and one msgpack message:

    client                                ledger
    Hello(version, name)        ->
                                <-        Welcome(version), or Refusal(0, reason, retryable=False) and a close
    Batch(seq, rows)            ->
                                <-        Ack(seq)              after COMMIT and fsync
                                          Refusal(seq, reason, retryable)   nothing of the batch was kept

Any change to a message or to `UsageRow` raises `WIRE_VERSION`; both sides refuse another version.
Neighbours: `sextant.governance.ledger_client` and `sextant.store.ledger`, which never import each other.
"""

from __future__ import annotations

import msgspec

WIRE_VERSION = 1
FRAME_BYTES_MAX = 4 * 1024 * 1024
"""A longer frame is garbage: the connection is closed."""
LENGTH_BYTES = 4

RowValues = tuple[str, str, str, str, str, str, int, int, int, int, int, int, int, bool, int, str]
"""The fields of `sextant.spec.usage.UsageRow`, in its order."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    version: int
    name: str


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    version: int


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    """As the ledger reads it: rows are plain values, ready to bind."""

    seq: int
    rows: list[RowValues]


class PackedBatch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    """The same message as the client writes it: each row was encoded when its request settled."""

    seq: int
    rows: list[msgspec.Raw]


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    seq: int


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refusal"):
    """Nothing of batch `seq` was kept (0: no batch, the connection itself is refused). Retryable: the same
    batch may succeed later (disk full); otherwise at least one of its rows never will."""

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
