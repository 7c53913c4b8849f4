"""Control's way to the ledger: money moved by people (top-ups, packages, credits, adjustments), and what
sites have used.

A thread at a time, a connection a call: such calls are rare. The ledger process alone writes the books, so
this speaks its protocol; a transfer has an id of its own, and posting it again after an unknown end changes
nothing.
Neighbours: `sextant.spec.ledger_wire` (the words), `ledger.py` (the other side).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from sextant.base.errors import BadRequest, LedgerUnavailable
from sextant.spec.ledger_wire import (
    WIRE_VERSION,
    Ack,
    Ask,
    BadFrame,
    Deliver,
    Delivered,
    Delivery,
    FrameBuffer,
    Hello,
    Post,
    Refusal,
    Welcome,
)
from sextant.spec.ledger_wire import frame as framed
from sextant.spec.policy import Standing
from sextant.spec.sites import SiteAnswer
from sextant.spec.transfer import Transfer

DEADLINE_S = 5.0
"""Longest silence of the ledger."""
READ_BYTES = 64 * 1024

Expected = TypeVar("Expected", Welcome, Ack, Delivered)
_decode = msgspec.msgpack.Decoder(Welcome | Ack | Delivered | Refusal).decode
_encode = msgspec.msgpack.Encoder().encode


class LedgerPosting:
    """Posts and asks over the ledger's socket. Safe in any thread; blocks for at most some seconds."""

    def __init__(self, socket_path: str | os.PathLike[str], deadline_s: float = DEADLINE_S) -> None:
        self._socket_path = Path(socket_path)
        self._deadline_s = deadline_s

    def post(self, transfers: Sequence[Transfer]) -> list[Standing]:
        """Keeps all transfers or none, each once however often it is posted; durable when this returns the
        standings of the tenants concerned. Raises BadRequest (no such account, not enough left, an id that is
        another transfer's) or LedgerUnavailable: then post the same again."""
        return self._call(Post(1, list(transfers)), Ack).standings

    def ask(self, scopes: Sequence[str]) -> list[Standing]:
        """The present standings of `scopes` (`tenant:ID`, `project:ID`, `key:ID`), version 0 for those the
        books do not know. Raises LedgerUnavailable."""
        return self._call(Ask(1, list(scopes)), Ack).standings

    def deliver(self, delivery: Delivery) -> SiteAnswer:
        """Keeps a site's rows, all or none, each once however often they come; durable when this returns.
        Raises BadRequest (rows that no book can hold) or LedgerUnavailable: then deliver the same again."""
        return self._call(Deliver(1, delivery), Delivered).answer

    def _call(self, message: Post | Ask | Deliver, answer: type[Expected]) -> Expected:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._deadline_s)
                connection.connect(str(self._socket_path))
                answers = _Answers(connection)
                connection.sendall(framed(_encode(Hello(WIRE_VERSION, f"posting-{os.getpid()}"))))
                answers.next(Welcome)
                connection.sendall(framed(_encode(message)))
                return answers.next(answer)
        except (OSError, BadFrame, msgspec.DecodeError) as error:
            raise LedgerUnavailable(
                f"the ledger at {self._socket_path} does not answer: {error or type(error).__name__}; "
                "see `sextant status`, then do the same again",
                retry_after_s=1.0,
            ) from error


class _Answers:
    """What the ledger sends on one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = FrameBuffer()
        self._bodies: list[bytes] = []

    def next(self, kind: type[Expected]) -> Expected:
        """The next message. Raises BadRequest or LedgerUnavailable for a refusal, OSError, BadFrame or
        DecodeError."""
        while not self._bodies:
            data = self._connection.recv(READ_BYTES)
            if not data:
                raise BadFrame("it closed the connection")
            self._bodies = self._frames.feed(data)
        message = _decode(self._bodies.pop(0))
        if isinstance(message, Refusal):
            if message.retryable or not message.seq:
                raise LedgerUnavailable(f"the ledger refuses: {message.reason}", retry_after_s=1.0)
            raise BadRequest(message.reason)
        if not isinstance(message, kind):
            raise BadFrame(f"it answered {type(message).__name__} instead of {kind.__name__}")
        return message
