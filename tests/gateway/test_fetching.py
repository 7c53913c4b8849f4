"""Fetching images by URL: from allowed hosts at checked public addresses, whole, bounded, and nothing else.

The host is a real TLS server on loopback. Loopback is never a public address, so these tests say which
address a name has and, where one is to be reached, that it may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pictures
import pytest
from fake_engine import Exchange, FakeEngine, whole
from gateway_stack import Stack, limits, stack
from test_media import image, message
from test_stream_rules import until

from sextant.base.errors import RateLimited
from sextant.gateway.fetching import HEAD_BYTES, LOOK_UPS, Fetcher, Resolver
from sextant.gateway.media import host_allowed
from sextant.spec.snapshot import Capabilities
from sextant.transport.addresses import is_not_public

URL = "https://images.test/cat.png?size=2"
BOUNDS = limits(media_hosts=("images.test", ".cdn.test"), media_fetch_timeout_s=5.0)
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b"
PNG = pictures.png()
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for images.test and what is below cdn.test; `cert.pem` and `key.pem`."""
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:images.test,DNS:*.cdn.test"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=test", "-addext", names]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


class Host:
    """A web server that answers every connection with `answer`, or as `serve` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answer = WHOLE % (len(PNG), PNG)
        self.serve: Serve | None = None
        self.asked: list[bytes] = []
        self.connections = 0
        self.looked_up: list[str] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            if self.serve is not None:
                await self.serve(reader, writer)
            else:
                writer.write(self.answer)
                await writer.drain()
        writer.close()

    async def look_up(self, name: str) -> list[tuple[str, int]]:
        self.looked_up.append(name)
        return [("127.0.0.1", self.port)]

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "cert.pem"))


async def answer(exchange: Exchange) -> None:
    await exchange.whole(whole())


@pytest.fixture
async def host(certificate: Path) -> AsyncIterator[Host]:
    found = Host(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = await asyncio.start_server(found.handle, "127.0.0.1", 0, ssl=context)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


@contextlib.asynccontextmanager
async def seeing(host: Host, *, bounds: Any = BOUNDS, **more: Any) -> AsyncIterator[Stack]:
    capable = Capabilities(vision=True)
    async with stack(FakeEngine(answer), limits=bounds, capabilities=capable) as s:
        more = {"look_up": host.look_up, "forbidden": lambda _: False, "tls": host.trust(), **more}
        s.app._flow.fetcher = Fetcher(bounds, **more)
        yield s
        assert s.app._flow.fetcher.active == 0
        assert s.governor.open == 0


async def refusal(s: Stack, url: str = URL, *, status: int = 400) -> dict[str, Any]:
    response = await s.chat(messages=message(image(url)))
    assert response.status_code == status, response.text
    assert not s.engine.exchanges
    error: dict[str, Any] = response.json()["error"]
    assert error["param"] in ("messages[0].content[1].image_url.url", None)
    return error


async def test_the_engine_gets_the_image_itself(host: Host) -> None:
    async with seeing(host) as s:
        url = "https://images.test./cat.png?size=2#top"
        response = await s.chat(messages=message(image(url), image("https://a.cdn.test")))
        assert response.status_code == 200
        sent = s.engine.exchanges[0].body["messages"]
        assert sent == message(image(pictures.data_url(PNG)), image(pictures.data_url(PNG)))
        assert host.looked_up == ["images.test", "a.cdn.test"]
        first, second = host.asked
        assert first.startswith(b"GET /cat.png?size=2 HTTP/1.1\r\nhost: images.test\r\n")
        assert second.startswith(b"GET / HTTP/1.1\r\nhost: a.cdn.test\r\n")
        assert b"authorization" not in first.lower()
        exposition = s.registry.exposition().decode()
        assert 'sextant_gateway_media_parts_total{kind="image",model="nano"} 2.0' in exposition
        size = f'sextant_gateway_media_bytes_total{{kind="image",model="nano"}} {2 * len(PNG)}.0'
        assert size in exposition


async def test_the_other_dialects_fetch_as_well(host: Host) -> None:
    async with seeing(host) as s:
        part = {"type": "image", "source": {"type": "url", "url": URL}}
        ask = {"model": "nano", "max_tokens": 5, "messages": [{"role": "user", "content": [part]}]}
        assert (await s.client.post("/v1/messages", json=ask)).status_code == 200
        item = {"role": "user", "content": [{"type": "input_image", "image_url": URL}]}
        response = await s.client.post("/v1/responses", json={"model": "nano", "input": [item]})
        assert response.status_code == 200
        for exchange in s.engine.exchanges:
            assert exchange.body["messages"][0]["content"] == [image(pictures.data_url(PNG))]


async def test_bodies_without_a_length_and_in_chunks(host: Host) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG)
    for host.answer in (chunked, b"HTTP/1.0 200 OK\r\n\r\n" + PNG):
        async with seeing(host) as s:
            assert (await s.chat(messages=message(image(URL)))).status_code == 200


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (
            b"HTTP/1.1 302 Found\r\nlocation: https://10.0.0.1/\r\n\r\n",
            "image_unavailable",
            "redirect",
        ),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "image_unavailable", "answered 404"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "image_unavailable", "answered 100"),
        (WHOLE % (9000, PNG), "image_unavailable", "cut off"),
        (b"", "image_unavailable", "cut off"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "image_unavailable", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * HEAD_BYTES * 2, "image_unavailable", ""),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
            "image_unavailable",
            "compressed",
        ),
        (WHOLE % (5, b"hello"), "invalid_image", "no PNG"),
        (WHOLE % (len(PNG) - 4, PNG[:-4]), "invalid_image", "cut off"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + PNG[:-4], "invalid_image", "cut off"),
    ],
)
async def test_anything_but_a_whole_image_is_refused(host: Host, said: bytes, code: str, reason: str) -> None:
    host.answer = said
    async with seeing(host) as s:
        error = await refusal(s)
        assert error["code"] == code
        assert reason in error["message"]


async def test_size_by_length_by_bytes_and_together(host: Host) -> None:
    big = pictures.png(tail=b"\0" * 5000)
    bounds = limits(media_hosts=BOUNDS.media_hosts, media_part_bytes=len(big) - 1)
    for host.answer in (WHOLE % (len(big), big), b"HTTP/1.1 200 OK\r\n\r\n" + big):
        async with seeing(host, bounds=bounds) as s:
            await refusal(s, status=413)
    together = limits(media_hosts=BOUNDS.media_hosts, media_bytes=2 * len(big) - 1)
    async with seeing(host, bounds=together) as s:
        assert (await s.chat(messages=message(image(URL)))).status_code == 200
        assert (await s.chat(messages=message(image(URL), image(URL)))).status_code == 413
    async with seeing(host, bounds=limits(media_hosts=BOUNDS.media_hosts, media_pixels=3)) as s:
        assert (await refusal(s))["code"] == "image_too_large"


async def test_a_host_without_end_is_left_in_time(host: Host) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + PNG[:8])
        await reader.read()

    host.serve = trickle
    bounds = limits(media_hosts=BOUNDS.media_hosts, media_fetch_timeout_s=0.2)
    async with seeing(host, bounds=bounds) as s:
        error = await refusal(s)
        assert error["code"] == "image_unavailable"
        assert "within 0.2 s" in error["message"]


async def test_an_address_that_is_not_public_is_never_connected_to(host: Host) -> None:
    async with seeing(host, forbidden=is_not_public) as s:
        assert (await refusal(s))["code"] == "url_not_allowed"

    async def mixed(name: str) -> list[tuple[str, int]]:
        return [("93.184.215.14", 443), ("10.0.0.7", 443)]

    async with seeing(host, forbidden=is_not_public, look_up=mixed) as s:
        assert (await refusal(s))["code"] == "url_not_allowed"
    assert host.connections == 0


async def test_a_name_is_looked_up_once_so_it_cannot_move_in_between(host: Host) -> None:
    """Rebinding: the second look-up would lead to another address. There is no second one."""
    checked: list[str] = []

    def note(address: str) -> bool:
        checked.append(address)
        return False

    async with seeing(host, forbidden=note) as s:
        assert (await s.chat(messages=message(image(URL)))).status_code == 200
    assert (host.looked_up, checked, host.connections) == (["images.test"], ["127.0.0.1"], 1)


async def test_another_name_s_certificate_and_no_server_at_all(host: Host) -> None:
    elsewhere = limits(media_hosts=("other.test",))
    async with seeing(host, bounds=elsewhere) as s:
        assert "no connection" in (await refusal(s, "https://other.test/a.png"))["message"]
    async with seeing(host, tls=ssl.create_default_context()) as s:
        assert "no connection" in (await refusal(s))["message"]

    async def nowhere(name: str) -> list[tuple[str, int]]:
        return [("127.0.0.1", 1)]

    async def unknown(name: str) -> list[tuple[str, int]]:
        raise OSError("no such name")

    for look_up in (nowhere, unknown):
        async with seeing(host, look_up=look_up) as s:
            assert (await refusal(s))["code"] == "image_unavailable"
    assert not host.asked


async def test_fetches_at_a_time_are_bounded_until_their_answers_end(host: Host) -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.gone()

    async with seeing(host, bounds=limits(media_hosts=BOUNDS.media_hosts, media_fetches=1)) as s:
        s.engine.script = slow
        first = asyncio.ensure_future(s.chat(messages=message(image(URL))))
        await until(lambda: s.engine.working == 1)
        second = await s.chat(messages=message(image(URL)))
        assert (second.status_code, second.json()["error"]["code"]) == (503, "media_fetches_full")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await until(lambda: s.app._flow.fetcher.active == 0)
        s.engine.script = answer
        assert (await s.chat(messages=message(image(URL)))).status_code == 200


async def test_a_client_that_leaves_ends_the_fetch(host: Host) -> None:
    closed = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await reader.read()
        closed.set()

    host.serve = wait
    async with seeing(host) as s:
        task = asyncio.ensure_future(s.chat(messages=message(image(URL))))
        await until(lambda: len(host.asked) == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(closed.wait(), 5)
        await until(lambda: s.governor.open == 0 and s.app._flow.fetcher.active == 0)
        assert not s.governor.rows, "nothing was run, so nothing is charged"


async def test_nothing_is_fetched_for_a_request_that_is_not_admitted(host: Host) -> None:
    async with seeing(host) as s:
        s.governor.refusal = RateLimited("slow down")
        assert (await s.chat(messages=message(image(URL)))).status_code == 429
        assert host.connections == 0


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("images.test", True),
        ("IMAGES.test", True),
        ("images.test.", True),
        ("a.images.test", False),
        ("notimages.test", False),
        ("a.cdn.test", True),
        ("a.b.cdn.test", True),
        ("cdn.test", False),
        ("evilcdn.test", False),
        ("images.test.evil.example", False),
        ("", False),
    ],
)
def test_which_hosts_are_on_the_list(name: str, allowed: bool) -> None:
    assert host_allowed(name, BOUNDS.media_hosts) is allowed


async def test_the_system_s_resolver_gives_addresses_with_the_port_of_https() -> None:
    assert ("127.0.0.1", 443) in await Resolver().addresses_of("127.0.0.1")
    with pytest.raises(UnicodeError):
        await Resolver().addresses_of("a" * 64 + ".example.com")


async def test_a_look_up_that_outlives_its_request_keeps_its_place(host: Host) -> None:
    """A name server that is silent: so many look-ups begin as there are places, the rest wait in vain, and
    when it speaks again all places are there."""
    begun: list[str] = []
    speak = threading.Event()

    def silent(name: str) -> list[tuple[str, int]]:
        begun.append(name)
        assert speak.wait(20)
        return [("127.0.0.1", host.port)]

    resolver = Resolver(silent)
    bounds = limits(media_hosts=BOUNDS.media_hosts, media_fetch_timeout_s=0.3)
    try:
        async with seeing(host, bounds=bounds, look_up=resolver.addresses_of) as s:
            for _ in range(2):
                asked = [refusal(s) for _ in range(LOOK_UPS)]
                assert {error["code"] for error in await asyncio.gather(*asked)} == {"image_unavailable"}
            assert len(begun) == LOOK_UPS, "the second round found no place"
            default = asyncio.get_running_loop().run_in_executor(None, lambda: "free")
            assert await asyncio.wait_for(default, 5) == "free"
            speak.set()
            found = await asyncio.wait_for(resolver.addresses_of("images.test"), 5)
            assert found == [("127.0.0.1", host.port)]
            await until(lambda: resolver._places._value == LOOK_UPS)
            assert (await s.chat(messages=message(image(URL)))).status_code == 200
    finally:
        speak.set()


async def test_a_look_up_that_fails_gives_its_place_back() -> None:
    def broken(name: str) -> list[tuple[str, int]]:
        raise OSError("no such name")

    resolver = Resolver(broken)
    for _ in range(LOOK_UPS + 1):
        with pytest.raises(OSError, match="no such name"):
            await asyncio.wait_for(resolver.addresses_of("images.test"), 5)
