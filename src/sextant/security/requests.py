"""A certificate request for a key that stays in its token: the token signs, an authority issues.

Neighbour: `keys.py`. The builder is `cryptography`'s; it is given a key that asks the token.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sextant.base.errors import Misconfigured
from sextant.security import keys
from sextant.security.token import OpenToken

COMMON_MAX = 64
"""Characters of a common name (RFC 5280, appendix A.1); callers look at the alternative names alone."""
NAME_MAX = 253
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


def certificate_request(token: OpenToken, label: str, names: Sequence[str]) -> bytes:
    """A PKCS#10 request (PEM) of the TLS key for these host names and addresses. Raises Misconfigured."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    if not names:
        raise Misconfigured("a certificate needs the name that callers use; give it: --name HOST")
    wrong = [name for name in names if not _is_host(name)]
    if wrong:
        raise Misconfigured(
            f"--name {wrong[0]!r} is neither a host's name nor an address; expected such as api.example.com, "
            f"*.example.com or 192.0.2.7, names of other alphabets in their ASCII form (xn--…)"
        )
    secret = keys.secret_key(token, label, "tls")
    public = keys.public_key(token, label)
    alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
    common = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names[:1] if len(name) <= COMMON_MAX]
    subject = x509.Name(common)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = builder.add_extension(alternative, critical=False).sign(
        _in_token(secret, public), hashes.SHA256()
    )
    return signed.public_bytes(Encoding.PEM)


def _is_host(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return len(name) <= NAME_MAX and _NAME.fullmatch(name) is not None
    return True


def check_certificate(token: OpenToken, label: str, file: Path) -> None:
    """Raises Misconfigured where the first certificate of `file` is not that of the TLS key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        shown = x509.load_pem_x509_certificates(file.read_bytes())[0].public_key()
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{file} holds no certificate that can be read: {error}") from None
    held = keys.public_key(token, label)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if shown.public_bytes(*form) != held.public_bytes(*form):
        raise Misconfigured(
            f"{file} is not the certificate of the key {label} in the token {token.facts.label}; have an "
            f"authority "
            f"sign what `sextant hsm request FILE` writes",
            code="hsm_certificate",
        )


def _general_name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _in_token(secret: Any, public: Any) -> Any:
    """What `cryptography` takes for a private key: it signs in the token, and cannot be taken out of it."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return (
        _curve_key(secret, public)
        if isinstance(public, ec.EllipticCurvePublicKey)
        else _rsa_key(secret, public)
    )


def _curve_key(secret: Any, public: Any) -> Any:
    import pkcs11
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    class InToken(_Closed, ec.EllipticCurvePrivateKey):
        curve = public.curve
        key_size = public.key_size

        def public_key(self) -> Any:
            return public

        def sign(self, data: Any, signature_algorithm: Any) -> bytes:
            digest = hashes.Hash(signature_algorithm.algorithm)
            digest.update(data)
            signed = secret.sign(digest.finalize(), mechanism=pkcs11.Mechanism.ECDSA)
            return pkcs11.util.ec.encode_ecdsa_signature(signed)

    return InToken()


def _rsa_key(secret: Any, public: Any) -> Any:
    import pkcs11
    from cryptography.hazmat.primitives.asymmetric import rsa

    class InToken(_Closed, rsa.RSAPrivateKey):
        key_size = public.key_size

        def public_key(self) -> Any:
            return public

        def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
            return bytes(secret.sign(bytes(data), mechanism=pkcs11.Mechanism.SHA256_RSA_PKCS))

    return InToken()


class _Closed:
    """The rest of what a private key has: what would need it outside of the token."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise Misconfigured("this key is in an HSM and does nothing but sign there")

    exchange = private_numbers = private_bytes = decrypt = _refuse

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, _: Any) -> Any:
        return self
