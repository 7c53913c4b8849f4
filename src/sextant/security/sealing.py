"""Sealed secrets: encrypted in a file with a key of their own, which only a key in an HSM opens.

Envelope encryption. Each file has a data key (AES-256-GCM); the token's sealing key encrypts that one, by
AES-GCM or AES key wrap with padding (RFC 5649) in the token, or RSA-OAEP. Everything else of the file is
bound to it as additional data. Neighbours: `keys.py`, `token.py`; `base/config.py` hands opened secrets on.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from sextant.base.errors import Misconfigured
from sextant.security import keys
from sextant.security.token import OpenToken

SEALED_BYTES = 128 * 1024
"""The most a sealed file may hold."""
SECRET_BYTES = 64 * 1024
NONCE_BYTES = 12
KEY_BYTES = 32
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
TAG_BITS = 128
"""NIST SP 800-38D, sections 5.2.1.2 and 8.2."""

Way = Literal["aes-gcm", "aes-kwp", "rsa-oaep-sha1"]
"""How the data key is encrypted. OAEP with SHA-1 is what every token has; its security does not rest on
SHA-1's collisions (RFC 8017, section 7.1 and appendix B.1)."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed file, JSON. Bytes are in base64."""

    sextant_sealed: Literal[1] = 1
    way: Way
    token: str
    serial: str
    key: str
    """Label of the sealing key."""
    wrapped: str
    """The data key; before it the nonce, with AES-GCM."""
    nonce: str
    secret: str

    def bound(self) -> bytes:
        """What the secret's own encryption vouches for beside it."""
        return "\0".join(("sextant-sealed-1", self.way, self.serial, self.key, self.wrapped)).encode()


def seal(token: OpenToken, label: str, secret: bytes) -> str:
    """The file's text. Raises Misconfigured for a secret that nothing could take, or a token that can do none
    of the three ways."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not 0 < len(secret) <= SECRET_BYTES:
        raise Misconfigured(f"the secret has {len(secret)} bytes; expected 1 to {SECRET_BYTES}")
    if not _is_one_line(secret):
        raise Misconfigured(
            "the secret is no single line of text in UTF-8 (it is not shown), as every secret of a document "
            "is; give one line: printf %s SECRET | sextant hsm seal FILE"
        )
    key = keys.secret_key(token, label, "sealing")
    way = _way(token, key)
    data_key, nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
    bare = Envelope(
        way=way,
        token=token.facts.label,
        serial=token.facts.serial,
        key=label,
        wrapped=_text(_wrapped(token, key, way, data_key)),
        nonce=_text(nonce),
        secret="",
    )
    sealed = AESGCM(data_key).encrypt(nonce, secret, bare.bound())
    whole = msgspec.structs.replace(bare, secret=_text(sealed))
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"


def unseal(token: OpenToken, label: str, path: str) -> str:
    """The secret in the sealed file `path`. Raises Misconfigured, never with a part of it."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    envelope = _read(path)
    if envelope.key != label or envelope.serial != token.facts.serial:
        raise Misconfigured(
            f"{path} was sealed with the key {envelope.key} in the token {envelope.token} (serial "
            f"{envelope.serial}); spec.security.hsm names {label} in {token.facts.label} (serial "
            f"{token.facts.serial}): seal the secret again with `sextant hsm seal FILE`, or name that token",
            code="sealed_elsewhere",
        )
    key = keys.secret_key(token, label, "sealing")
    data_key = _unwrapped(token, key, envelope, path)
    try:
        opened = AESGCM(data_key).decrypt(_bytes(envelope.nonce), _bytes(envelope.secret), envelope.bound())
    except (InvalidTag, ValueError):
        raise _changed(path) from None
    if not _is_one_line(opened):
        raise Misconfigured(
            f"what is sealed in {path} is no single line of text in UTF-8; seal it again with `sextant hsm "
            f"seal FILE`",
            code="sealed_unreadable",
        )
    return opened.decode()


def _is_one_line(secret: bytes) -> bool:
    try:
        return CONTROL.search(secret.decode()) is None
    except UnicodeDecodeError:
        return False


def _way(token: OpenToken, key: Any) -> Way:
    import pkcs11

    if key.key_type == pkcs11.KeyType.RSA:
        return "rsa-oaep-sha1"
    has = token.facts.mechanisms
    if "AES_GCM" in has and key[pkcs11.Attribute.ENCRYPT] and key[pkcs11.Attribute.DECRYPT]:
        return "aes-gcm"
    if "AES_KEY_WRAP_PAD" in has and key[pkcs11.Attribute.WRAP] and key[pkcs11.Attribute.UNWRAP]:
        return "aes-kwp"
    raise Misconfigured(
        f"the token {token.facts.label} has neither AES_GCM nor AES_KEY_WRAP_PAD for its sealing key; "
        f"name an RSA "
        f"key instead, which `sextant hsm init FILE --rsa` makes",
        field="spec.security.hsm.sealing_key",
        code="hsm_key",
    )


def _wrapped(token: OpenToken, key: Any, way: Way, data_key: bytes) -> bytes:
    import pkcs11
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    if way == "rsa-oaep-sha1":
        public = keys.public_key(token, key.label)
        sha1 = hashes.SHA1()
        return bytes(public.encrypt(data_key, padding.OAEP(padding.MGF1(sha1), sha1, None)))
    if way == "aes-gcm":
        nonce = os.urandom(NONCE_BYTES)
        told = pkcs11.GCMParams(nonce, b"", TAG_BITS)
        return nonce + bytes(key.encrypt(data_key, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=told))
    held = token.session.create_object(_data_key_template() | {pkcs11.Attribute.VALUE: data_key})
    return bytes(key.wrap_key(held, mechanism=pkcs11.Mechanism.AES_KEY_WRAP_PAD))


def _unwrapped(token: OpenToken, key: Any, envelope: Envelope, path: str) -> bytes:
    """The data key. Raises Misconfigured where the token does not take what the file holds."""
    import pkcs11

    mechanism = pkcs11.Mechanism
    try:
        wrapped = _bytes(envelope.wrapped)
        if envelope.way == "rsa-oaep-sha1":
            told: Any = (mechanism.SHA_1, pkcs11.MGF.SHA1, None)
            return bytes(key.decrypt(wrapped, mechanism=mechanism.RSA_PKCS_OAEP, mechanism_param=told))
        if envelope.way == "aes-gcm":
            told = pkcs11.GCMParams(wrapped[:NONCE_BYTES], b"", TAG_BITS)
            return bytes(
                key.decrypt(wrapped[NONCE_BYTES:], mechanism=mechanism.AES_GCM, mechanism_param=told)
            )
        held = key.unwrap_key(
            pkcs11.ObjectClass.SECRET_KEY,
            pkcs11.KeyType.AES,
            wrapped,
            mechanism=mechanism.AES_KEY_WRAP_PAD,
            template=_data_key_template(),
        )
        return bytes(held[pkcs11.Attribute.VALUE])
    except (pkcs11.DeviceError, pkcs11.DeviceRemoved, pkcs11.TokenNotPresent):
        raise
    except (pkcs11.PKCS11Error, ValueError):
        raise _changed(path) from None


def _data_key_template() -> dict[Any, Any]:
    """A data key while it is in the token: of this session alone, and readable by it."""
    import pkcs11

    attribute = pkcs11.Attribute
    return {
        attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
        attribute.KEY_TYPE: pkcs11.KeyType.AES,
        attribute.TOKEN: False,
        attribute.SENSITIVE: False,
        attribute.EXTRACTABLE: True,
    }


def _read(path: str) -> Envelope:
    try:
        with Path(path).open("rb") as file:
            data = file.read(SEALED_BYTES + 1)
    except OSError as error:
        raise Misconfigured(
            f"the sealed secret {path} cannot be read: {error.strerror}; make it with `sextant hsm seal "
            f"FILE`",
            code="sealed_unreadable",
        ) from None
    try:
        if len(data) > SEALED_BYTES:
            raise msgspec.DecodeError("too long")
        return msgspec.json.decode(data, type=Envelope)
    except msgspec.DecodeError:
        raise Misconfigured(
            f"{path} is no sealed secret; expected what `sextant hsm seal FILE` writes",
            code="sealed_unreadable",
        ) from None


def _changed(path: str) -> Misconfigured:
    return Misconfigured(
        f"{path} does not open: it was changed since it was sealed, or the key in the token is another "
        f"one of "
        f"the same name; seal the secret again with `sextant hsm seal FILE`",
        code="sealed_changed",
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
