"""Checks an ID token: signature, issuer, audience, times, nonce (OpenID Connect Core 1.0, 3.1.3.7). Pure.

Only asymmetric signatures are taken: with `none` anybody could write a token, and with an HMAC anybody who
knows the client's secret.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from sextant.base.errors import Unauthenticated

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
CLOCK_SKEW_S = 60
AGE_S_MAX = 600
"""A token made longer ago than this was not made for this sign-in."""


class Expected(msgspec.Struct, frozen=True):
    """What the token must say."""

    issuer: str
    client_id: str
    nonce: str


class UnknownKey(Unauthenticated):
    """The token names a key that is not in the set: perhaps a newer one."""


def checked_claims(token: str, keys: KeySet, expected: Expected, now_s: float) -> dict[str, Any]:
    """The claims of `token`. Raises Unauthenticated saying what is wrong with it, never what stands in it;
    UnknownKey when its key is not in `keys`."""
    header = _header(token)
    if header.get("alg") not in ALGORITHMS:
        raise _refused(
            f"it is signed with {str(header.get('alg'))[:20]!r}; expected one of {', '.join(ALGORITHMS)}"
        )
    try:
        claims = jwt.decode(token, _key(header, keys), algorithms=list(ALGORITHMS)).claims
    except (JoseError, ValueError) as error:
        raise _refused(f"its signature is not the provider's ({type(error).__name__})") from None
    _check_parties(claims, expected)
    _check_times(claims, now_s)
    if claims.get("nonce") != expected.nonce:
        raise _refused("its nonce is not the one of this sign-in")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise _refused("it names no subject")
    return claims


def _check_parties(claims: dict[str, Any], expected: Expected) -> None:
    if claims.get("iss") != expected.issuer:
        raise _refused("it was issued by somebody else")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if expected.client_id not in audiences:
        raise _refused("it is meant for another program")
    party = claims.get("azp")
    if (len(audiences) > 1 and party is None) or party not in (None, expected.client_id):
        raise _refused("it was made at another program's request")


def _check_times(claims: dict[str, Any], now_s: float) -> None:
    expires_s, issued_s = claims.get("exp"), claims.get("iat")
    if not isinstance(expires_s, int | float) or not isinstance(issued_s, int | float):
        raise _refused("it lacks its times")
    if expires_s + CLOCK_SKEW_S <= now_s:
        raise _refused("it has expired; are both clocks right?")
    if issued_s - CLOCK_SKEW_S > now_s:
        raise _refused("it is from the future; are both clocks right?")
    if issued_s + AGE_S_MAX + CLOCK_SKEW_S < now_s:
        raise _refused("it is too old; are both clocks right?")


def _header(token: str) -> dict[str, Any]:
    part = token.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError):
        raise _refused("it is no JSON Web Token") from None
    if not isinstance(header, dict):
        raise _refused("it is no JSON Web Token")
    return header


def _key(header: dict[str, Any], keys: KeySet) -> Any:
    named = header.get("kid")
    found = [key for key in keys.keys if key.kid == named]
    if named is None and len(keys.keys) == 1:
        found = list(keys.keys)
    if len(found) != 1:
        raise UnknownKey("the provider's answer is refused: it is signed with a key that is not published")
    return found[0]


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"the provider's ID token is refused: {why}", code="oidc_refused")
