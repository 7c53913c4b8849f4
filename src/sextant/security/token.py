"""A token of an HSM over PKCS#11: found, logged in to, used, closed. The only file that loads a maker's
library.

A wrong PIN is tried once at most: tokens lock after a few. Once a token says that a wrong one was entered
since the last login, nothing here logs in again before a person has said so. Neighbours: `keys.py` (the keys
of a token), `sealing.py` (secrets that one of them opens).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from sextant.base.config import give_to_libraries, resolve_secret
from sextant.base.errors import Misconfigured, Retryable
from sextant.spec.security_sections import Hsm

EXTRA = "pip install 'sextant-llm[hsm]'"
LABELS_SHOWN = 5


class TokenPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a token is and how it is opened."""

    module: str
    """Path of the maker's library."""
    token: str
    """Its label."""
    serial: str = ""
    """Empty: whichever has the label."""
    pin_ref: str
    environment: Mapping[str, str] = {}


class TokenFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says about itself."""

    label: str
    serial: str
    maker: str
    model: str
    firmware: str
    library: str
    mechanisms: tuple[str, ...]


class OpenToken(msgspec.Struct, frozen=True):
    """A token that is logged in to. `session` is python-pkcs11's; `keys.py` and `sealing.py` alone use it."""

    session: Any
    facts: TokenFacts


def place_of(hsm: Hsm, *, pin_ref: str = "") -> TokenPlace:
    """The place that a document names; with `pin_ref`, the PIN is found there instead."""
    return TokenPlace(
        module=hsm.module,
        token=hsm.token,
        serial=hsm.serial or "",
        pin_ref=pin_ref or hsm.pin,
        environment=dict(hsm.environment),
    )


def place_of_uri(uri: str) -> tuple[TokenPlace, str]:
    """The place and the key's label of a PKCS#11 URI (RFC 7512), which names library and PIN itself, as in
    `pkcs11:token=release;object=signing?module-path=/usr/lib/…so&pin-source=file:/path`. Raises
    Misconfigured.
    """
    scheme, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    parts = [*path.split(";"), *query.split("&")]
    said = {name: unquote(value) for name, _, value in (part.partition("=") for part in parts if part)}
    missing = [name for name in ("token", "object", "module-path", "pin-source") if not said.get(name)]
    if scheme != "pkcs11" or missing or "pin-value" in said:
        raise Misconfigured(
            "the key's URI is not complete, or holds the PIN itself (it is not shown); expected "
            "`pkcs11:token=LABEL;object=LABEL?module-path=/path/of/library.so&pin-source=file:/path/of/pin`",
            code="hsm_uri",
        )
    source = said["pin-source"]
    pin_ref = source if source.startswith(("file:", "env:")) else f"file:{source}"
    place = TokenPlace(
        module=said["module-path"], token=said["token"], serial=said.get("serial", ""), pin_ref=pin_ref
    )
    return place, said["object"]


@contextlib.contextmanager
def opened(place: TokenPlace, *, changes: bool = False, after_wrong_pin: bool = False) -> Iterator[OpenToken]:
    """The token, logged in to; `changes` where keys are to be made.

    `after_wrong_pin` logs in although the token says that a wrong PIN was entered before. Raises
    Misconfigured for what somebody has to put right, and Retryable where the device failed.
    """
    pin = resolve_secret(place.pin_ref)
    with _loaded(place) as library, _telling(place):
        token = _token(library, place)
        facts = _facts(library, token)
        _may_log_in(token, place, after_wrong_pin=after_wrong_pin)
        with _logged_in(token, place, pin, changes=changes) as session:
            yield OpenToken(session, facts)


@contextlib.contextmanager
def _loaded(place: TokenPlace) -> Iterator[Any]:
    """The library, for no longer than it is used: the next time it looks for its tokens anew."""
    library = _library(place)
    try:
        yield library
    finally:
        library.finalize()


@contextlib.contextmanager
def _telling(place: TokenPlace) -> Iterator[None]:
    """Says in our words what the library raises."""
    import pkcs11

    try:
        yield
    except (pkcs11.DeviceError, pkcs11.DeviceRemoved, pkcs11.DeviceMemory, pkcs11.TokenNotPresent) as error:
        raise Retryable(
            f"the HSM behind {place.module} failed ({type(error).__name__}); look at the device and its "
            f"connection, then try again",
            code="hsm_failed",
        ) from None
    except pkcs11.PKCS11Error as error:
        raise Misconfigured(
            f"the token {place.token} of {place.module} refused: {_named(error)}; see the maker's manual "
            f"for it, "
            f"and `sextant hsm check` for what the token can do",
            code="hsm_refused",
        ) from None


def _library(place: TokenPlace) -> Any:
    """Raises Misconfigured where the library is not there or is none."""
    try:
        import pkcs11
    except ImportError:
        raise Misconfigured(
            f"python-pkcs11 is not installed, and spec.security.hsm needs it; run: {EXTRA}",
            code="hsm_not_installed",
        ) from None
    if not Path(place.module).is_file():
        raise Misconfigured(
            f"the PKCS#11 library {place.module} is not there; install the HSM maker's software, or put "
            f"its path "
            f"into spec.security.hsm.module",
            field="spec.security.hsm.module",
            code="hsm_module",
        )
    give_to_libraries(place.environment)
    try:
        return pkcs11.lib(place.module)
    except pkcs11.PKCS11Error as error:
        variables = ", ".join(place.environment) or "none"
        raise Misconfigured(
            f"{place.module} cannot be used as a PKCS#11 library: {_named(error)}; it was given the "
            f"variables "
            f"{variables} (spec.security.hsm.environment); expected the maker's library for this machine, "
            f"with "
            f"its configuration",
            field="spec.security.hsm.module",
            code="hsm_module",
        ) from None


def _token(library: Any, place: TokenPlace) -> Any:
    """The token of that label, and of that serial number where one is given. Raises Misconfigured."""
    import pkcs11

    there = [one for one in library.get_tokens() if pkcs11.TokenFlag.TOKEN_INITIALIZED in one.flags]
    found = [one for one in there if one.label == place.token and place.serial in ("", _serial(one))]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(f"{one.label} (serial {_serial(one)})" for one in there[:LABELS_SHOWN])
    if found:
        raise Misconfigured(
            f"{len(found)} tokens are called {place.token}: {shown}; name the right one by its serial number",
            field="spec.security.hsm.serial",
            code="hsm_token",
        )
    wanted = f"{place.token} with the serial number {place.serial}" if place.serial else place.token
    raise Misconfigured(
        f"the HSM behind {place.module} has no token {wanted}; it has {shown or 'none'}: is the device "
        f"connected, may this user reach it, and is the label right?",
        field="spec.security.hsm.token",
        code="hsm_token",
    )


def _may_log_in(token: Any, place: TokenPlace, *, after_wrong_pin: bool) -> None:
    """Raises Misconfigured where a login could lock the token, or cannot succeed."""
    import pkcs11

    flags = token.flags
    if pkcs11.TokenFlag.USER_PIN_LOCKED in flags:
        raise Misconfigured(
            f"the token {place.token} is locked after too many wrong PINs; its security officer unlocks it "
            f"with the maker's tool",
            code="hsm_pin_locked",
        )
    doubtful = pkcs11.TokenFlag.USER_PIN_COUNT_LOW in flags or pkcs11.TokenFlag.USER_PIN_FINAL_TRY in flags
    if doubtful and not after_wrong_pin:
        last = " and has one try left" if pkcs11.TokenFlag.USER_PIN_FINAL_TRY in flags else ""
        raise Misconfigured(
            f"a wrong PIN was entered at the token {place.token} since its last login{last}, so it is not "
            f"tried "
            f"again: tokens lock; put the right PIN into {place.pin_ref}, then run once: "
            f"sextant hsm check FILE --after-wrong-pin",
            code="hsm_pin_doubtful",
        )


@contextlib.contextmanager
def _logged_in(token: Any, place: TokenPlace, pin: str, *, changes: bool) -> Iterator[Any]:
    import pkcs11

    try:
        session = token.open(rw=changes, user_pin=pin)
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
        raise Misconfigured(
            f"the token {place.token} refused the PIN from {place.pin_ref}; it was tried once and is not "
            f"tried "
            f"again by itself: put the right one there, then run once: sextant hsm check FILE "
            f"--after-wrong-pin",
            field="spec.security.hsm.pin",
            code="hsm_pin",
        ) from None
    except pkcs11.PinLocked:
        raise Misconfigured(
            f"the token {place.token} is locked; its security officer unlocks it with the maker's tool",
            code="hsm_pin_locked",
        ) from None
    except pkcs11.UserPinNotInitialized:
        raise Misconfigured(
            f"the token {place.token} has no user PIN yet; its security officer sets one with the maker's "
            f"tool",
            code="hsm_pin",
        ) from None
    try:
        yield session
    finally:
        session.close()


def _facts(library: Any, token: Any) -> TokenFacts:
    names = sorted(getattr(one, "name", f"0x{int(one):08x}") for one in token.slot.get_mechanisms())
    major, minor = token.firmware_version
    version = ".".join(str(part) for part in library.library_version)
    return TokenFacts(
        label=token.label,
        serial=_serial(token),
        maker=token.manufacturer_id,
        model=token.model,
        firmware=f"{major}.{minor}",
        library=f"{library.manufacturer_id} {version}".strip(),
        mechanisms=tuple(names),
    )


def _serial(token: Any) -> str:
    return bytes(token.serial).decode("utf-8", "replace").strip("\0 ")


def _named(error: Exception) -> str:
    said = str(error).strip()
    return f"{type(error).__name__}{f' ({said[:200]})' if said else ''}"
