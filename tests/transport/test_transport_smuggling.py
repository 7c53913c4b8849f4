"""Request smuggling: straight, through a real nginx and a real haproxy, counting what reaches the upstream.

Client, front, our server with its pool, upstream. After each payload a victim asks over the same front (which
keeps and shares its connections to us): it must get its own answer. Whatever reaches the upstream must stand
in the front's log as a request of its own: one that does not was hidden from the front.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import transport_kit as kit
from transport_smuggling import PAYLOADS, Payload
from transport_upstreams import Call, ScriptedUpstream, answer

from sextant.base.errors import UpstreamError
from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool
from sextant.transport.exchange import Request, Responder
from sextant.transport.server import serve

pytestmark = pytest.mark.slow

LIMITS = GatewayLimits(head_timeout_s=0.5, body_stall_timeout_s=0.5, body_timeout_s=1.0)
SETTLE_S = 0.05


@dataclasses.dataclass
class Chain:
    """Our server before a counting upstream."""

    port: int
    upstream: ScriptedUpstream

    def seen(self) -> list[str]:
        """Request targets that reached the upstream, in order."""
        return [call.head.split(b" ")[1].decode() for call in self.upstream.calls]


@contextlib.asynccontextmanager
async def chain() -> AsyncIterator[Chain]:
    """Our server forwards each request; the upstream answers with the target it was asked for."""

    async def script(call: Call) -> None:
        await call.send(answer(b"you asked for " + call.head.split(b" ")[1]))

    upstream = ScriptedUpstream(script)
    async with upstream.running():
        registry = Registry()
        pool = Pool(LIMITS, registry)

        async def handler(request: Request, responder: Responder) -> None:
            target = f"{request.path}?{request.query}" if request.query else request.path
            try:
                found = await pool.send(upstream.url, b"POST", target.encode(), (), request.body)
                body = await found.read(1 << 20)
                found.close()
            except UpstreamError as error:
                responder.reply(502, (), str(error).encode())
                return
            responder.reply(200, ((b"content-type", b"text/plain"),), body)

        server = await serve(handler, host="127.0.0.1", port=0, limits=LIMITS, registry=registry)
        try:
            yield Chain(server.port, upstream)
        finally:
            await server.close(0)
            pool.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; {user}
events {{ worker_connections 256; }}
http {{
  log_format seen '$request_uri $upstream_status';
  access_log {folder}/access.log seen;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  client_header_timeout 1s; client_body_timeout 1s; ignore_invalid_headers off; underscores_in_headers on;
  upstream ours {{ server 127.0.0.1:{backend}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://ours; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_request_buffering {buffering}; proxy_read_timeout 3s;
      proxy_next_upstream off;
    }}
  }}
}}
"""

HAPROXY = """
global
  log stdout format raw local0
defaults
  mode http
  log global
  timeout connect 2s
  timeout client 1s
  timeout server 3s
  option http-keep-alive
  http-reuse always
  retries 0
  log-format "%HU %ST %ts"
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server ours 127.0.0.1:{backend} pool-max-conn 1
"""


class Front:
    """A real proxy in front of us."""

    def __init__(self, port: int, read_log: Callable[[], str]) -> None:
        self.port = port
        self._read_log = read_log

    def logged(self) -> list[str]:
        """Targets of the requests that it saw."""
        return re.findall(r"^(/\S*) ", self._read_log(), re.MULTILINE)


@contextlib.contextmanager
def nginx(folder: Path, backend: int, buffering: str) -> Iterator[Front]:
    binary = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert binary, "nginx is needed: apt-get install nginx-light"
    port = free_port()
    user = "user root;" if Path("/proc/self").stat().st_uid == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, backend=backend, buffering=buffering, user=user))
    command = [binary, "-e", str(folder / "start.log"), "-c", str(config)]
    with running(command, port, folder / "output.log"):
        yield Front(port, (folder / "access.log").read_text)


@contextlib.contextmanager
def haproxy(folder: Path, backend: int) -> Iterator[Front]:
    binary = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert binary, "haproxy is needed: apt-get install haproxy"
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, backend=backend))
    with running([binary, "-db", "-f", str(config)], port, folder / "output.log"):
        yield Front(port, (folder / "output.log").read_text)


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """The process, from the moment it listens."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                    break
                assert process.poll() is None, log.read_text()
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            process.wait(10)


async def attack(port: int, payload: Payload) -> bytes:
    """Sends the payload and takes what comes back."""
    wire = await kit.Wire.open(port)
    wire.send(payload.data)
    data = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(SETTLE_S):
            while piece := await wire.reader.read(65536):
                data += piece
    wire.reset()
    await asyncio.sleep(0)
    return data


async def ask_as_victim(port: int, number: int) -> None:
    """Another client, right after: its answer is its own."""
    wire = await kit.Wire.open(port)
    for part in ("a", "b"):
        wire.send(kit.get(f"/victim-{number}-{part}", method="POST", body=b"mine"))
        reply = await wire.answer()
        assert reply.status == 200 and reply.complete, reply
        assert reply.body == f"you asked for /victim-{number}-{part}".encode()
    await wire.close()


async def test_straight() -> None:
    async with chain() as ours:
        for number, payload in enumerate(PAYLOADS):
            before = len(ours.seen())
            await attack(ours.port, payload)
            seen = ours.seen()[before:]
            allowed = 2 if payload.pipelined else 1
            assert len(seen) <= allowed, (payload.name, seen)
            assert payload.pipelined or "/smuggled" not in seen, payload.name
            await ask_as_victim(ours.port, number)


async def through(front: Front, ours: Chain) -> None:
    """Every payload through `front`; the two logs must tell the same story."""
    for number, payload in enumerate(PAYLOADS):
        await attack(front.port, payload)
        await ask_as_victim(front.port, number)
        assert ours.seen().count(f"/victim-{number}-a") == 1, payload.name

    deadline = time.monotonic() + 5
    while extra(ours.seen(), front.logged()) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert extra(ours.seen(), front.logged()) == []
    victims = [target for target in ours.seen() if target.startswith("/victim-")]
    assert len(victims) == 2 * len(PAYLOADS)


def extra(seen: list[str], logged: list[str]) -> list[str]:
    """What the upstream saw and the front did not."""
    left = list(logged)
    surplus = []
    for target in seen:
        if target in left:
            left.remove(target)
        else:
            surplus.append(target)
    return surplus


@pytest.mark.parametrize("buffering", ["on", "off"])
async def test_through_nginx(tmp_path: Path, buffering: str) -> None:
    async with chain() as ours:
        with nginx(tmp_path, ours.port, buffering) as front:
            await through(front, ours)


async def test_through_haproxy(tmp_path: Path) -> None:
    async with chain() as ours:
        with haproxy(tmp_path, ours.port) as front:
            await through(front, ours)
