"""Our certificate and the authorities of peers, as the SPIFFE Workload API gives them, kept in files.

Runs in a process of its own (`app/identity_process.py`): the library brings gRPC and its threads along, which
neither the gateway's loop nor the supervisor, which has no thread, should carry. What was given last stays in
the file while the Workload API is away; its certificate ends by itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import WorkloadApiClient, X509Svid
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.x509_context import X509Context

from sextant.base.ids import trust_domain_of
from sextant.security.spiffe import Identity

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""Between two attempts to reach the Workload API: doubled each time, up to the longest."""
LOOK_S = 0.5
"""How often it is looked whether to stop, at most."""
_SAID = {
    "PERMISSION_DENIED": "no certificate is registered for this process; register its id",
    "UNAVAILABLE": "nothing answers there; is the agent running?",
    "does not exist": "there is no such socket; is the agent running, and its folder mounted?",
}
"""What the library's words, gRPC's statuses among them, mean to whoever has to mend it."""
_log = logging.getLogger(__name__)


class IdentityFile:
    """Where the identity is written: `path`, and beside it one file with key and certificate for each."""

    def __init__(self, path: Path, trust_domain: str) -> None:
        self._path = path
        self._trust_domain = trust_domain
        fresh = Identity(version=time.time_ns() // 1_000_000, reason="it has not answered yet")
        self.identity, self._seen = self._former(fresh)

    def keep(self, context: X509Context) -> None:
        """Writes down what the Workload API gave. Raises OSError; ValueError for a certificate of another
        trust domain than the document's."""
        svid = context.default_svid
        domain = svid.spiffe_id.trust_domain.name
        if domain != self._trust_domain:
            raise ValueError(
                f"the Workload API calls this process {svid.spiffe_id}, expected an id of the trust domain "
                f"{self._trust_domain}; correct spec.security.spiffe.trust_domain, or the registration"
            )
        pem = _pem_of(svid)
        bundles = {
            bundle.trust_domain.name: "".join(sorted(_text(each) for each in bundle.x509_authorities))
            for bundle in context.x509_bundle_set.bundles
        }
        rotated = bool(self._seen) and pem != self._seen
        file = self._path.with_name(f"svid-{hashlib.sha256(pem).hexdigest()[:16]}.pem")
        if pem != self._seen:
            _write_private(file, pem)
        former = self.identity.svid_file
        self._change(
            spiffe_id=str(svid.spiffe_id),
            svid_file=str(file),
            expires_s=svid.leaf.not_valid_after_utc.timestamp(),
            bundles=bundles,
            rotations=self.identity.rotations + int(rotated),
            reason="",
        )
        self._seen = pem
        self._forget(keep={str(file), former})

    def _former(self, fresh: Identity) -> tuple[Identity, bytes]:
        """What the process before this one was given last, where its certificate still holds, with the
        certificate; `fresh` otherwise. A process that ends takes no certificate along."""
        try:
            former = msgspec.json.decode(self._path.read_bytes(), type=Identity)
            pem = Path(former.svid_file).read_bytes()
        except (OSError, msgspec.DecodeError):
            return fresh, b""
        if former.expires_s <= time.time() or trust_domain_of(former.spiffe_id) != self._trust_domain:
            return fresh, b""
        version = max(fresh.version, former.version)
        return msgspec.structs.replace(former, version=version), pem

    def complain(self, reason: str) -> None:
        """Writes down why nothing newer can be had. Raises OSError."""
        if reason != self.identity.reason:
            _log.warning("the Workload API: %s", reason)
            self._change(reason=reason)

    def _change(self, **told: str | float | Mapping[str, str]) -> None:
        version = self.identity.version + 1
        self.identity = msgspec.structs.replace(self.identity, version=version, **told)
        _write_private(self._path, msgspec.json.encode(self.identity))

    def _forget(self, keep: set[str]) -> None:
        """Removes keys of certificates before the last one; who reads `path` now may still open that."""
        for file in self._path.parent.glob("svid-*.pem"):
            if str(file) not in keep:
                file.unlink(missing_ok=True)


class Source:
    """Asks the Workload API behind the socket `address` (`unix:///…`) until told to stop."""

    def __init__(self, address: str, file: IdentityFile) -> None:
        self._address = address
        self._file = file
        self._stop = threading.Event()
        self._wake = threading.Event()

    def stop(self) -> None:
        """From any thread, or a signal handler."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Until `stop`. Raises OSError when the identity cannot be written down."""
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            given, said = self._listen()
            if self._stop.is_set():
                return
            self._file.complain(f"{self._address}: {said}")
            pause_s = FIRST_PAUSE_S if given else min(2 * pause_s, LONGEST_PAUSE_S)
            self._stop.wait(pause_s)

    def _listen(self) -> tuple[bool, str]:
        """Follows one stream to its end: whether it gave anything, and how it ended."""
        ended: list[str] = []
        broken: list[OSError] = []
        given = threading.Event()
        self._wake.clear()

        def take(context: X509Context) -> None:
            try:
                self._file.keep(context)
            except OSError as error:
                broken.append(error)
                self._wake.set()
                raise
            given.set()

        def end(error: Exception) -> None:
            ended.append(_said(error))
            self._wake.set()

        try:
            client = WorkloadApiClient(self._address)
        except PySpiffeError as error:
            return False, _said(error)
        with client:
            watch = client.stream_x509_contexts(take, end, retry_connect=False)
            while not (self._wake.wait(LOOK_S) or self._stop.is_set()):
                continue
            watch.cancel()
        if broken:
            raise broken[0]
        return given.is_set(), ended[0] if ended else "the stream ended"


def _pem_of(svid: X509Svid) -> bytes:
    key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key + b"".join(each.public_bytes(Encoding.PEM) for each in svid.cert_chain)


def _text(certificate: object) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()  # type: ignore[attr-defined, no-any-return]


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return next((said for code, said in _SAID.items() if code in text), text)


def _write_private(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
