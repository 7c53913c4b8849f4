"""What the tests of SPIFFE share: an authority, a Workload API on a socket, an engine behind mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from spiffe._proto import workload_pb2, workload_pb2_grpc

DOMAIN = "example.org"
GATEWAY = f"spiffe://{DOMAIN}/ns/sextant/sa/gateway"
ENGINE = f"spiffe://{DOMAIN}/ns/sextant/sa/engine"


class Svid:
    """A certificate chain and its key, as the Workload API sends them and as servers load them."""

    def __init__(self, leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.leaf = leaf
        self.chain_der = leaf.public_bytes(Encoding.DER)
        self.key_der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self.key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.pem = self.key_pem + leaf.public_bytes(Encoding.PEM)
        (self.uri, *_) = leaf.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.UniformResourceIdentifier) or [""]


class Authority:
    """Signs certificates of one trust domain."""

    def __init__(self, domain: str = DOMAIN) -> None:
        self.domain = domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"SPIFFE {domain}")])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{domain}")]), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
            .sign(self._key, hashes.SHA256())
        )
        self.der = self._certificate.public_bytes(Encoding.DER)
        self.pem = self._certificate.public_bytes(Encoding.PEM).decode()

    def svid(self, *uris: str, lasts_s: float = 3600.0, names: Sequence[str] = ()) -> Svid:
        """A certificate for `uris`, good until `lasts_s` from now, which may be in the past."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        said: list[x509.GeneralName] = [x509.UniformResourceIdentifier(each) for each in uris]
        said += [x509.DNSName(each) for each in names]
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIRE")]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(seconds=lasts_s))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(authority_key, critical=False)
            .add_extension(x509.SubjectAlternativeName(said), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Svid(leaf, key)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


class WorkloadApi(workload_pb2_grpc.SpiffeWorkloadAPIServicer):  # type: ignore[misc]
    """The Workload API on a Unix socket. `give` sends everybody who listens something new."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.address = f"unix://{socket}"
        self.asked = 0
        self.wanted: set[str] = set()
        """Names of the secrets that proxies have asked for."""
        self._news = threading.Condition()
        self._answer: Any = None
        self._secrets: dict[str, bytes] = {}
        self._number = 0
        self._server: grpc.Server | None = None

    def give(self, svid: Svid, authority: Authority, *federated: Authority) -> None:
        """From now on: this certificate, these authorities."""
        told = workload_pb2.X509SVID(
            spiffe_id=svid.uri, x509_svid=svid.chain_der, x509_svid_key=svid.key_der, bundle=authority.der
        )
        others = {f"spiffe://{each.domain}": each.der for each in federated}
        self._secrets = {
            svid.uri: _certificate_of(svid),
            f"spiffe://{authority.domain}": _trust_in(authority),
        }
        self._say(workload_pb2.X509SVIDResponse(svids=[told], federated_bundles=others))

    def deny(self) -> None:
        """From now on: nothing is registered for whoever asks."""
        self._say(None)

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(16))
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)
        self._server.add_generic_rpc_handlers((self._discovery(),))
        self._server.add_insecure_port(self.address)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            with self._news:
                self._number += 1
                self._news.notify_all()
            self._server.stop(None).wait()
            self._server = None
            self.socket.unlink(missing_ok=True)

    def FetchX509SVID(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """The standard's method: everything at once, then whatever is new."""
        if ("workload.spiffe.io", "true") not in [tuple(each) for each in context.invocation_metadata()]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the security header is missing")
        self.asked += 1
        seen = -1
        while context.is_active():
            with self._news:
                self._news.wait(0.2 if self._number == seen else 0.0)
                if self._number == seen:
                    continue
                seen, answer = self._number, self._answer
            if answer is None:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
            yield answer

    def _discovery(self) -> grpc.GenericRpcHandler:
        """Envoy's SDS, which SPIRE's agent serves on the same socket (envoy.service.secret.v3)."""
        method = grpc.stream_stream_rpc_method_handler(self._stream_secrets)
        return grpc.method_handlers_generic_handler(
            "envoy.service.secret.v3.SecretDiscoveryService", {"StreamSecrets": method}
        )

    def _stream_secrets(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """The secrets that the first request names, again whenever there are others."""
        names = [value.decode() for number, value in _fields(next(requests)) if number == 3]
        self.wanted |= set(names)
        seen = 0
        while context.is_active():
            with self._news:
                if self._number == seen:
                    self._news.wait(0.2)
                if self._number == seen:
                    continue
                seen, secrets = self._number, self._secrets
            found = b"".join(
                _field(2, _field(1, _SECRET.encode()) + _field(2, _field(1, name.encode()) + secrets[name]))
                for name in names
                if name in secrets
            )
            version = str(seen).encode()
            yield _field(1, version) + found + _field(4, _SECRET.encode()) + _field(5, version)

    def _say(self, answer: Any) -> None:
        with self._news:
            self._answer = answer
            self._number += 1
            self._news.notify_all()


_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def _field(number: int, value: bytes) -> bytes:
    """A field of protobuf that has a length."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that has none but strings, bytes and messages."""
    at = 0

    def read() -> int:
        nonlocal at
        number, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while at < len(data):
        key, length = read(), read()
        assert key & 7 == 2, "a field without a length"
        yield key >> 3, data[at : at + length]
        at += length


def _inline(text: bytes) -> bytes:
    return _field(2, text)


def _certificate_of(svid: Svid) -> bytes:
    """A Secret's `tls_certificate`."""
    chain = svid.leaf.public_bytes(Encoding.PEM)
    return _field(2, _field(1, _inline(chain)) + _field(2, _inline(svid.key_pem)))


def _trust_in(authority: Authority) -> bytes:
    """A Secret's `validation_context`."""
    return _field(4, _field(1, _inline(authority.pem.encode())))


@contextlib.contextmanager
def workload_api(folder: Path) -> Iterator[WorkloadApi]:
    """One that answers, and has nothing to give yet."""
    api = WorkloadApi(folder / "agent.sock")
    api.start()
    try:
        yield api
    finally:
        api.stop()


class Engine:
    """An OpenAI-like endpoint behind mutual TLS 1.3. Each connection is asked who it is."""

    MODELS = b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"e"}]}'
    ANSWER = (
        b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"hello"},"finish_reason":"stop","logprobs":null}],"usage":'
        b'{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'
    )

    def __init__(self, svid: Svid, authority: Authority, folder: Path) -> None:
        file = folder / "engine.pem"
        file.write_bytes(svid.pem)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_cert_chain(file)
        self.context.load_verify_locations(cadata=authority.pem)
        self.callers: list[tuple[str, int]] = []
        """URI and serial number of each connection's certificate."""
        self.requests = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def base_url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("peercert")
        (uri,) = [name for kind, name in shown["subjectAltName"] if kind == "URI"]
        self.callers.append((uri, int(shown["serialNumber"], 16)))
        self._writers.add(writer)
        with contextlib.suppress(EOFError, OSError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                ]
                await reader.readexactly(lengths[0] if lengths else 0)
                self.requests += 1
                await self.hold.wait()
                body = self.ANSWER if head.startswith(b"POST") else self.MODELS
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(body), body)
                )
        self._writers.discard(writer)
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Engine]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.hold.set()
            server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0)
