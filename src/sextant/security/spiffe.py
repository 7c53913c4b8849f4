"""Mutual TLS between gateway and engines by SPIFFE: TLS contexts from an identity, and who the peer must be.

The process `app/identity_process.py` keeps the identity fresh (`spiffe_source.py` asks the Workload API) and
writes it down; gateways and the supervisor read it and hand it to `Peers`, which is given to the transport.
Nothing here imports gRPC. Names of hosts are not looked at: a peer is who its certificate's one URI says, and
authorities of one trust domain vouch for ids of no other (SPIFFE X509-SVID, sections 2 and 5).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping

import msgspec

from sextant.base.ids import trust_domain_of

NO_IDENTITY = "no identity"
"""How reasons begin when there is no certificate to show."""


class NoIdentity(ConnectionError):
    """There is no certificate to show to a peer, or no authority to judge it by; the text says why."""


class PeerRefused(ssl.SSLCertVerificationError):
    """The peer's certificate is good, and somebody else's."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the Workload API has given last, as a file that only its owner reads."""

    version: int
    """Grows with every change."""
    spiffe_id: str = ""
    """Who we are; empty: nobody has said yet."""
    svid_file: str = ""
    """Our certificate, its intermediates and our key, PEM; a new file for each certificate."""
    expires_s: float = 0.0
    """Until when the certificate holds, Unix time."""
    bundles: Mapping[str, str] = {}
    """Authorities by trust domain, PEM: our own domain's, and those that are federated with it."""
    rotations: int = 0
    """Certificates after the first."""
    reason: str = ""
    """Why no newer one can be had; empty while the Workload API answers."""


class Peers:
    """TLS contexts for peers by SPIFFE id. `take` gives it each new identity; connections that are open keep
    the one they were made with."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._identity = Identity(version=0, reason="the Workload API has not been asked yet")
        self._contexts: dict[str, ssl.SSLContext] = {}

    @property
    def identity(self) -> Identity:
        """The one in use."""
        return self._identity

    def take(self, identity: Identity) -> None:
        """Uses `identity` from now on. Raises OSError where its files cannot be used; the last one stays."""
        contexts = {
            domain: client_context(identity.svid_file, authorities)
            for domain, authorities in identity.bundles.items()
            if identity.svid_file and authorities
        }
        self._identity, self._contexts = identity, contexts

    def remark(self) -> str:
        """Why there is nothing to show to a peer; empty while there is."""
        identity = self._identity
        if not identity.svid_file:
            return f"{NO_IDENTITY}: {identity.reason or 'the Workload API has given none'}"
        if self._now() >= identity.expires_s:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(identity.expires_s))
            why = identity.reason or "the Workload API has given no newer one"
            return f"{NO_IDENTITY}: the certificate of {identity.spiffe_id} ended at {at}: {why}"
        return ""

    def context(self, peer_id: str) -> ssl.SSLContext:
        """What to connect to `peer_id` with. Raises NoIdentity."""
        remark = self.remark()
        if remark:
            raise NoIdentity(remark)
        domain = trust_domain_of(peer_id)
        context = self._contexts.get(domain)
        if context is None:
            raise NoIdentity(
                f"{NO_IDENTITY} can be judged of {peer_id}: the Workload API gives no authorities of its "
                f"trust domain {domain}; federate that with {trust_domain_of(self._identity.spiffe_id)}"
            )
        return context

    def check(self, peer_id: str, connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        """Looks at who the other side of a connection, just made and verified, is. Raises PeerRefused."""
        said = uris_of(connection.getpeercert() or {})
        if said != (peer_id,):
            shown = ", ".join(said) or "no URI"
            raise PeerRefused(1, f"the peer is {shown}, expected {peer_id}")


def client_context(svid_file: str, authorities: str) -> ssl.SSLContext:
    """TLS 1.3 that shows our certificate and trusts these authorities (PEM) alone. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # `Peers.check` looks at the id instead
    context.verify_mode = ssl.CERT_REQUIRED
    # An authority of a bundle is trusted as it stands, also when another one has signed it.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_cert_chain(svid_file)
    context.load_verify_locations(cadata=authorities)
    return context


def uris_of(certificate: Mapping[str, object]) -> tuple[str, ...]:
    """All URIs of a certificate as Python's `ssl` shows it; a SPIFFE certificate has exactly one."""
    names = certificate.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return tuple(name for kind, name in names if kind == "URI")
