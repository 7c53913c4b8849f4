"""The keys in a token: which of them are there, what they are good for, making and using them.

Three uses, each with its kind of key: `tls` (the front's: EC P-256 or P-384, or RSA), `sealing` (AES-256, or
RSA) and `signing` (Ed25519). Private keys never leave the token. Neighbours: `token.py`, `requests.py`,
`sealing.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sextant.base.errors import Misconfigured
from sextant.security.token import LABELS_SHOWN, OpenToken
from sextant.spec.security_sections import Hsm

Use = Literal["tls", "sealing", "signing"]
Kind = Literal["EC P-256", "EC P-384", "RSA", "AES", "Ed25519", "other"]

FITS: dict[Use, tuple[Kind, ...]] = {
    "tls": ("EC P-256", "EC P-384", "RSA"),
    "sealing": ("AES", "RSA"),
    "signing": ("Ed25519",),
}
RSA_BITS = 3072
"""Of keys made here; NIST SP 800-57 part 1, table 2: 128 bits of security, as AES-128 and P-256."""
RSA_BITS_LEAST = 2048
AES_BITS = 256
ED25519_OID = "1.3.101.112"
"""RFC 8410, section 3."""
ED25519 = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")
"""How a token names the curve, DER: by that OID, or by name (PKCS#11 3.0, section 2.3.5)."""
CURVES: dict[str, Kind] = {"secp256r1": "EC P-256", "secp384r1": "EC P-384"}


class KeyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One of the keys that a document names."""

    use: Use
    label: str
    kind: Kind
    bits: int
    extractable: bool
    """Whether the token would give it away; it should not."""


def named_keys(hsm: Hsm) -> dict[Use, str]:
    """The labels that the document gives, by use."""
    found: dict[Use, str | None] = {
        "tls": hsm.tls_key,
        "sealing": hsm.sealing_key,
        "signing": hsm.signing_key,
    }
    return {use: label for use, label in found.items() if label is not None}


def is_there(token: OpenToken, label: str) -> bool:
    """Whether a private or secret key of that label is in the token."""
    return bool(_secret_objects(token, label))


def look_at(token: OpenToken, label: str, use: Use) -> KeyFacts:
    """What that key is. Raises Misconfigured where it is not there, there twice, or of a wrong kind."""
    key = secret_key(token, label, use)
    kind, bits = _kind(key)
    return KeyFacts(use=use, label=label, kind=kind, bits=bits, extractable=_extractable(key))


def secret_key(token: OpenToken, label: str, use: Use) -> Any:
    """The private or secret key itself, as python-pkcs11 has it. Raises Misconfigured, as `look_at`."""
    found = _secret_objects(token, label)
    at = f"spec.security.hsm.{use}_key"
    if not found:
        others = ", ".join(_labels(token)[:LABELS_SHOWN]) or "none"
        raise Misconfigured(
            f"the token {token.facts.label} has no key {label} that this PIN opens; it has {others}: make it "
            f"with `sextant hsm init FILE`, or correct {at}",
            field=at,
            code="hsm_key",
        )
    if len(found) > 1:
        raise Misconfigured(
            f"the token {token.facts.label} has {len(found)} keys {label}; expected one: rename or delete "
            f"the "
            f"others with the maker's tool",
            field=at,
            code="hsm_key",
        )
    kind, bits = _kind(found[0])
    if (
        kind not in FITS[use]
        or (kind == "RSA" and bits < RSA_BITS_LEAST)
        or (kind == "AES" and bits < AES_BITS)
    ):
        shown = f"{kind} of {bits} bits" if bits else kind
        raise Misconfigured(
            f"the key {label} in the token {token.facts.label} is {shown}; expected "
            f"{' or '.join(FITS[use])} for {at}, RSA with {RSA_BITS_LEAST} bits and AES with {AES_BITS} "
            f"at least: "
            f"name another label, which `sextant hsm init FILE` makes",
            field=at,
            code="hsm_key",
        )
    return found[0]


def fit_for_front(token: OpenToken) -> None:
    """Raises Misconfigured where nginx would not find the TLS key: OpenSSL's engine of Debian 12 (libp11
    0.4.12) fails on a token that holds an Ed25519 key too."""
    found = [label for label, key in _private_keys(token) if _kind(key)[0] == "Ed25519"]
    if found:
        raise Misconfigured(
            f"the token {token.facts.label} holds the Ed25519 key {found[0]} beside the front's TLS key, and "
            f"OpenSSL's pkcs11 engine then finds no key at all; keep the key that signs in a token of its "
            f"own",
            field="spec.security.hsm.tls_key",
            code="hsm_key",
        )


def make(token: OpenToken, label: str, use: Use, *, rsa: bool = False) -> KeyFacts:
    """Makes a key of that use inside the token: sensitive, and never to leave it. Raises Misconfigured where
    the token cannot."""
    if use == "sealing":
        _make_sealing(token, label, rsa=rsa)
    elif rsa and use == "tls":
        _make_rsa(token, label, signs=True)
    else:
        _make_curve(token, label, use)
    return look_at(token, label, use)


def public_key(token: OpenToken, label: str) -> Any:
    """The public half, as `cryptography` has it. Raises Misconfigured where the token does not hold it."""
    import pkcs11
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    wanted = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY, pkcs11.Attribute.LABEL: label}
    found = list(token.session.get_objects(wanted))
    if len(found) != 1:
        raise Misconfigured(
            f"the token {token.facts.label} has {len(found) or 'no'} public keys {label}; expected one, "
            f"beside "
            f"the private key: import it with the maker's tool, or make the pair with `sextant hsm init "
            f"FILE`",
            code="hsm_key",
        )
    key = found[0]
    kind, _ = _kind(key)
    if kind == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(bytes(key[pkcs11.Attribute.EC_POINT])[-32:])
    if kind == "RSA":
        exponent = int.from_bytes(key[pkcs11.Attribute.PUBLIC_EXPONENT], "big")
        modulus = int.from_bytes(key[pkcs11.Attribute.MODULUS], "big")
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return load_der_public_key(pkcs11.util.ec.encode_ec_public_key(key))


def sign(token: OpenToken, label: str, data: bytes) -> bytes:
    """The Ed25519 signature (RFC 8032) of `data` by the signing key. Raises Misconfigured."""
    import pkcs11

    key = secret_key(token, label, "signing")
    return bytes(key.sign(data, mechanism=pkcs11.Mechanism.EDDSA))


def _make_sealing(token: OpenToken, label: str, *, rsa: bool) -> None:
    import pkcs11

    if rsa or "AES_KEY_GEN" not in token.facts.mechanisms:
        _make_rsa(token, label, signs=False)
        return
    attribute = pkcs11.Attribute
    closed = {
        attribute.SENSITIVE: True,
        attribute.EXTRACTABLE: False,
        attribute.WRAP: True,
        attribute.UNWRAP: True,
    }
    token.session.generate_key(
        pkcs11.KeyType.AES, AES_BITS, id=label.encode(), label=label, store=True, template=closed
    )


def _make_rsa(token: OpenToken, label: str, *, signs: bool) -> None:
    import pkcs11

    facts = pkcs11.MechanismFlag
    uses = facts.SIGN | facts.VERIFY if signs else facts.ENCRYPT | facts.DECRYPT
    token.session.generate_keypair(
        pkcs11.KeyType.RSA,
        RSA_BITS,
        id=label.encode(),
        label=label,
        store=True,
        capabilities=uses,
        private_template=_closed(),
    )


def _make_curve(token: OpenToken, label: str, use: Use) -> None:
    import pkcs11

    signing = use == "signing"
    needed = "EC_EDWARDS_KEY_PAIR_GEN" if signing else "EC_KEY_PAIR_GEN"
    if needed not in token.facts.mechanisms:
        raise Misconfigured(
            f"the token {token.facts.label} makes no {FITS[use][0]} keys (it lacks {needed}); use another "
            f"token" + ("" if signing else ", or an RSA key: `sextant hsm init FILE --rsa`"),
            code="hsm_key",
        )
    kind = pkcs11.KeyType.EC_EDWARDS if signing else pkcs11.KeyType.EC
    curve = pkcs11.util.ec.encode_named_curve_parameters(ED25519_OID if signing else "secp256r1")
    domain = token.session.create_domain_parameters(kind, {pkcs11.Attribute.EC_PARAMS: curve}, local=True)
    domain.generate_keypair(
        mechanism=pkcs11.Mechanism[needed],
        id=label.encode(),
        label=label,
        store=True,
        capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
        private_template=_closed(),
    )


def _closed() -> dict[Any, bool]:
    import pkcs11

    return {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}


def _private_keys(token: OpenToken) -> list[tuple[str, Any]]:
    import pkcs11

    wanted = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY}
    return [(str(key[pkcs11.Attribute.LABEL]), key) for key in token.session.get_objects(wanted)]


def _secret_objects(token: OpenToken, label: str) -> list[Any]:
    import pkcs11

    found: list[Any] = []
    for one in (pkcs11.ObjectClass.PRIVATE_KEY, pkcs11.ObjectClass.SECRET_KEY):
        found += token.session.get_objects({pkcs11.Attribute.CLASS: one, pkcs11.Attribute.LABEL: label})
    return found


def _labels(token: OpenToken) -> list[str]:
    import pkcs11

    secret = token.session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY})
    found = [label for label, _ in _private_keys(token)]
    return sorted({*found, *(str(key[pkcs11.Attribute.LABEL]) for key in secret)})


def _kind(key: Any) -> tuple[Kind, int]:
    """What a key is, and its length in bits."""
    import pkcs11
    from asn1crypto.keys import ECDomainParameters

    match key.key_type:
        case pkcs11.KeyType.RSA:
            return "RSA", len(bytes(key[pkcs11.Attribute.MODULUS]).lstrip(b"\0")) * 8
        case pkcs11.KeyType.AES:
            return "AES", int(key[pkcs11.Attribute.VALUE_LEN]) * 8
        case pkcs11.KeyType.EC:
            curve = ECDomainParameters.load(key[pkcs11.Attribute.EC_PARAMS])
            kind = CURVES.get(str(curve.native), "other")
            return kind, {"EC P-256": 256, "EC P-384": 384}.get(kind, 0)
        case pkcs11.KeyType.EC_EDWARDS:
            return ("Ed25519", 256) if bytes(key[pkcs11.Attribute.EC_PARAMS]) in ED25519 else ("other", 0)
    return "other", 0


def _extractable(key: Any) -> bool:
    import pkcs11

    return bool(key[pkcs11.Attribute.EXTRACTABLE]) or not key[pkcs11.Attribute.SENSITIVE]
