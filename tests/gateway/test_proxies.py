"""Whom a proxy says it serves: believed from trusted networks alone, and read from the right."""

from __future__ import annotations

import pytest

from sextant.gateway.proxies import HOPS_MAX, TrustedProxies, behind_proxies
from sextant.transport.exchange import Request, Responder

PROXIES = TrustedProxies(("10.0.0.0/8", "127.0.0.1", "2001:db8:1::/48"))


def request(peer: str, *lines: str) -> Request:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", line.encode("latin-1")) for line in lines)]
    return Request("POST", "/v1/chat/completions", "", headers, b"", peer)


@pytest.mark.parametrize(
    ("peer", "lines", "caller"),
    [
        ("10.0.0.1", ("203.0.113.7",), "203.0.113.7"),
        ("10.0.0.1", ("1.1.1.1, 203.0.113.7",), "203.0.113.7"),  # the caller wrote the first itself
        ("10.0.0.1", ("1.1.1.1,203.0.113.7, 10.9.9.9",), "203.0.113.7"),
        ("10.0.0.1", ("1.1.1.1", "203.0.113.7", "10.9.9.9"), "203.0.113.7"),
        ("10.0.0.1", ("203.0.113.7:4711",), "203.0.113.7"),
        ("10.0.0.1", ("[2001:db8::7]:4711",), "2001:db8::7"),
        ("10.0.0.1", ("2001:DB8::0007",), "2001:db8::7"),
        ("2001:db8:1::5", ("2001:db8::7",), "2001:db8::7"),
        ("::ffff:10.0.0.1", ("::ffff:203.0.113.7",), "203.0.113.7"),
        ("10.0.0.1", ("10.2.3.4, 10.9.9.9",), "10.2.3.4"),  # a machine among the proxies calls
        ("10.0.0.1", ("garbage, 203.0.113.7",), "203.0.113.7"),  # left of it nothing is read
    ],
)
def test_a_trusted_proxy_names_the_caller(peer: str, lines: tuple[str, ...], caller: str) -> None:
    assert PROXIES.caller_of(request(peer, *lines)) == caller


@pytest.mark.parametrize("peer", ["203.0.113.9", "11.0.0.1", "2001:db8:2::5", "", "fe80::1%eth0"])
def test_nobody_else_is_believed(peer: str) -> None:
    assert PROXIES.caller_of(request(peer, "198.51.100.1")) == peer


@pytest.mark.parametrize(
    "line",
    [
        *("", ",", "203.0.113.7,", "unknown", "203.0.113.7, x", "203.0.113", "[2001:db8::7", "fe80::1%eth0"),
        *("203.0.113.7:x", "for=203.0.113.7", "203.0.113.7 10.0.0.2", "\xff", "203.0.113.007", "1:2:3:4"),
    ],
)
def test_a_header_that_names_nobody_leaves_the_peer(line: str) -> None:
    assert PROXIES.caller_of(request("10.0.0.1", line)) == "10.0.0.1"
    assert PROXIES.caller_of(request("10.0.0.1")) == "10.0.0.1"


def test_a_chain_is_followed_to_its_bound_and_no_further() -> None:
    proxies = ["10.0.0.2"] * (HOPS_MAX - 1)
    longest = request("10.0.0.1", ",".join(["203.0.113.7", *proxies]))
    assert PROXIES.caller_of(longest) == "203.0.113.7"
    beyond = request("10.0.0.1", ",".join(["203.0.113.7", "10.0.0.2", *proxies]))
    assert PROXIES.caller_of(beyond) == "10.0.0.1"


async def test_nothing_is_in_the_way_where_no_proxy_is_trusted() -> None:
    seen = []

    async def app(request: Request, responder: Responder) -> None:
        seen.append(request.peer)

    assert behind_proxies(app, ()) is app
    responder: Responder = object()  # type: ignore[assignment]
    await behind_proxies(app, ("10.0.0.0/8",))(request("10.0.0.1", "203.0.113.7"), responder)
    assert seen == ["203.0.113.7"]
