"""Ids: short, sortable by time, unguessable where that matters."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, lower case

SPIFFE_ID_BYTES_MAX, TRUST_DOMAIN_BYTES_MAX = 2048, 255


def _base32(value: int, digits: int) -> str:
    return "".join(_ALPHABET[(value >> (5 * i)) & 31] for i in reversed(range(digits)))


class IdSource:
    """Request ids for one process: 48 bits of milliseconds, 40 random bits per process, a counter.

    Unique across processes with overwhelming probability, ordered within one, and cheap: one counter step
    and one format per id.
    """

    def __init__(self, prefix: str) -> None:
        self._head = (
            f"{prefix}{_base32(time.time_ns() // 1_000_000, 10)}{_base32(int.from_bytes(os.urandom(5)), 8)}"
        )
        self._counter = itertools.count()

    def next(self) -> str:
        return f"{self._head}{next(self._counter):07x}"


def new_id(prefix: str) -> str:
    """An id for a stored record, e.g. `key_01h…`: 50 bits of time, 50 random bits."""
    return f"{prefix}_{_base32(time.time_ns() // 1_000_000, 10)}{_base32(secrets.randbits(50), 10)}"


def new_secret(prefix: str) -> str:
    """A credential of 240 random bits, e.g. `sk-…`. Shown once; only its SHA-256 is ever stored."""
    return f"{prefix}-{_base32(secrets.randbits(240), 48)}"


def trust_domain_of(spiffe_id: str) -> str:
    """The trust domain of a workload's SPIFFE id; empty where the text is no such id: another scheme, a
    query, no path, a `.` or `..` in it, or more than 2,048 bytes (SPIFFE-ID, section 2)."""
    found = re.fullmatch(r"spiffe://([a-z0-9._-]+)((?:/[A-Za-z0-9._-]+)+)", spiffe_id, re.ASCII)
    if found is None or len(spiffe_id) > SPIFFE_ID_BYTES_MAX or len(found[1]) > TRUST_DOMAIN_BYTES_MAX:
        return ""
    if any(segment in (".", "..") for segment in found[2].split("/")):
        return ""
    return found[1]
