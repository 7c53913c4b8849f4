"""Every transport test runs on both event loops; services come plain, with TLS, and as the ASGI twin."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import transport_kit as kit
import uvloop
from transport_benches import benches, plain_benches  # noqa: F401 - fixtures

from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry

HERE = Path(__file__).parent


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops for every test here."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In `make test-fast` the product's own loop without TLS is enough; `make test` runs all."""
    for item in items:
        name = item.name
        if item.path.parent == HERE and ("[asyncio" in name or "-tls" in name or "-twin" in name):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> kit.Certificate:
    """A fresh self-signed certificate for localhost and 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder, "server")


def make_certificate(folder: Path, name: str) -> kit.Certificate:
    """Writes `name`.crt and `name`.key."""
    found = kit.Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(found.key_file), "-out", str(found.cert_file),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return found


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest_asyncio.fixture(params=["plain", "tls", "twin"])
async def service(
    request: pytest.FixtureRequest, certificate: kit.Certificate
) -> AsyncIterator[kit.ServiceMaker]:
    """Starts services over the given handler: own server, own server with TLS, or the twin under uvicorn."""
    maker = kit.ServiceMaker(request.param, certificate)
    yield maker
    await maker.close()


@pytest_asyncio.fixture(params=["plain", "tls"])
async def own_service(
    request: pytest.FixtureRequest, certificate: kit.Certificate
) -> AsyncIterator[kit.ServiceMaker]:
    """As `service`, our own server only: for what concerns the bytes themselves."""
    maker = kit.ServiceMaker(request.param, certificate)
    yield maker
    await maker.close()


@pytest_asyncio.fixture
async def plain_service(certificate: kit.Certificate) -> AsyncIterator[kit.ServiceMaker]:
    """Our own server without TLS."""
    maker = kit.ServiceMaker("plain", certificate)
    yield maker
    await maker.close()


@pytest.fixture
def client_context(certificate: kit.Certificate) -> ssl.SSLContext:
    return certificate.client_context()


@pytest.fixture
def quick_limits() -> GatewayLimits:
    """Short deadlines, so that a test of one takes a fraction of a second."""
    return GatewayLimits(
        head_timeout_s=0.3, body_stall_timeout_s=0.3, body_timeout_s=0.8, idle_timeout_s=0.5,
        write_stall_timeout_s=0.5, upstream_connect_timeout_s=0.5, upstream_first_byte_timeout_s=0.4,
        upstream_idle_timeout_s=0.4,
    )  # fmt: skip
