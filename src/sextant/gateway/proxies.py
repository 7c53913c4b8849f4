"""The caller's address behind proxies that the document trusts (`gateway.trusted_proxies`).

Flow 1 (serve), before `app.py`, and only where proxies are named: otherwise nothing of this runs. A peer in a
trusted network is a proxy, whose `X-Forwarded-For` says whom it serves; what any other peer says of itself is
not read. Proxies append, so the header is read from the right: the first address that is no proxy of ours is
the caller's, whatever it wrote to the left of it. Neighbours: `governance/holders.py` (networks of keys).
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Awaitable, Sequence

from sextant.transport.exchange import Handler, Request, Responder

HOPS_MAX = 32
"""Addresses that are looked at; beyond so many proxies the peer itself counts as the caller."""
ADDRESSES_REMEMBERED = 1024
FORWARDED = b"x-forwarded-for"
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedProxies:
    """The networks in which proxies stand. Raises ValueError for what is no network."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(text) for text in networks)
        self._trusts = functools.lru_cache(ADDRESSES_REMEMBERED)(self._is_within)

    def caller_of(self, request: Request) -> str:
        """The address on whose behalf `request` came: its peer, unless that is a trusted proxy that names
        another. A header that is no list of addresses, as far as it is read, names nobody."""
        peer = request.peer
        if not self._trusts(peer):
            return peer
        lines = [value for name, value in request.headers if name == FORWARDED]
        if not lines:
            return peer
        hops = b",".join(lines).decode("latin-1").rsplit(",", HOPS_MAX)
        cut = len(hops) > HOPS_MAX
        for hop in reversed(hops[1:] if cut else hops):
            address = _address_of(hop.strip(" \t"))
            if address is None:
                return peer
            if not self._trusts(str(address)):
                return str(address)
        return peer if cut else str(_address_of(hops[0].strip(" \t")))

    def _is_within(self, text: str) -> bool:
        address = _address_of(text.partition("%")[0])
        return address is not None and any(address in network for network in self._networks)


def behind_proxies(app: Handler, networks: Sequence[str]) -> Handler:
    """`app`, told the caller's address as the request's peer; `app` itself where no proxy is trusted."""
    if not networks:
        return app
    proxies = TrustedProxies(networks)

    def answer(request: Request, responder: Responder) -> Awaitable[None]:
        request.peer = proxies.caller_of(request)
        return app(request, responder)

    return answer


def _address_of(text: str) -> _Address | None:
    """The address in `text`, which may have a port behind it; IPv4 in IPv6's form is IPv4."""
    with_port = _WITH_PORT.fullmatch(text)
    if with_port is not None:
        text = with_port[1] or with_port[2]
    if "%" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
