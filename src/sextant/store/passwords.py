"""People's passwords: what is accepted, how one is hashed, how one is checked.

argon2id with the parameters that RFC 9106 recommends where memory is short (section 4, second choice). At
most a few are computed at a time, since each takes 64 MiB.
"""

from __future__ import annotations

import threading
import unicodedata

import argon2

from sextant.base.errors import BadRequest, Overloaded

CHARACTERS_MIN = 12
CHARACTERS_MAX = 256
HASHES_AT_ONCE = 2
WAIT_S = 5.0
_NOBODY = "a password that nobody has"


class Passwords:
    """Hashes and verifies; takes as long for an unknown person as for a known one."""

    def __init__(self, parameters: argon2.Parameters = argon2.profiles.RFC_9106_LOW_MEMORY) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
        self._room = threading.BoundedSemaphore(HASHES_AT_ONCE)
        self._nobody = ""

    def hash(self, password: str) -> str:
        """What to store of `password`. Raises BadRequest (too short, too long), Overloaded."""
        return self.renewed(checked_password(password))

    def renewed(self, password: str) -> str:
        """As `hash`, of a password that was accepted once, whatever is asked of one today."""
        with self._place():
            return self._hasher.hash(_normal(password))

    def verify(self, password: str, stored: str) -> bool:
        """Whether `stored` was made of `password`; an empty `stored` never was. Raises Overloaded."""
        if not self._nobody:
            self._nobody = self.renewed(_NOBODY)
        with self._place():
            try:
                self._hasher.verify(stored or self._nobody, _normal(password[: 2 * CHARACTERS_MAX]))
            except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
                return False
        return bool(stored)

    def is_dated(self, stored: str) -> bool:
        """Whether `stored` was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def _place(self) -> _Place:
        return _Place(self._room)


class _Place:
    """One of the few places in which a hash is computed."""

    def __init__(self, room: threading.BoundedSemaphore) -> None:
        self._room = room

    def __enter__(self) -> None:
        if not self._room.acquire(timeout=WAIT_S):
            raise Overloaded("too many sign-ins at once; try again", retry_after_s=1.0)

    def __exit__(self, *_: object) -> None:
        self._room.release()


def checked_password(password: str) -> str:
    """Raises BadRequest (too short, too long)."""
    if not CHARACTERS_MIN <= len(password) <= CHARACTERS_MAX:
        raise BadRequest(
            f"a password has {CHARACTERS_MIN} to {CHARACTERS_MAX} characters; this one {len(password)}",
            field="password",
        )
    return password


def _normal(password: str) -> bytes:
    """The same bytes however a keyboard composes the characters (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")
