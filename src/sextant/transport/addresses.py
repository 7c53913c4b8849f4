"""Which addresses and hosts are of the public Internet: the list of what a caller's URL may not lead to.

Flow 1 (serve), for URLs in requests, and for webhooks. Pure: names are not looked up here. Neighbours:
the gateway's `fetching.py` and `sextant.operations.alert_channels` ask for every address that they would
connect to, the gateway's `media.py` for URLs that an engine would fetch by itself.
"""

from __future__ import annotations

import ipaddress

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""RFC 4291, 2.4: the only IPv6 that is routed. Outside of it are site-local, IPv4-mapped and NAT64
addresses, whatever they carry."""
_REFUSED = tuple(
    ipaddress.ip_network(block)
    for block in (
        "168.63.129.16/32",  # the host under a virtual machine of Azure, reached from inside alone
        "192.88.99.0/24",  # relays of 6to4, RFC 7526
        "2001::/32",  # Teredo, RFC 4380: an IPv4 address and port of somebody's inner network
        "3fff::/20",  # documentation, RFC 9637
    )
)
"""What the standard library calls global and is not to be asked."""
_LOCAL_NAMES = ("localhost", "localhost.localdomain")


def is_not_public(address: str) -> bool:
    """Whether an address is none of the public Internet: private, loopback, link-local, multicast, reserved,
    a service of the machine's host, or an IPv6 form that carries such an IPv4 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return True
    if not found.is_global or found.is_multicast or found.is_reserved:
        return True
    if any(found in block for block in _REFUSED):
        return True
    if isinstance(found, ipaddress.IPv4Address):
        return False
    carried = found.sixtofour
    return found not in _GLOBAL_UNICAST or (carried is not None and is_not_public(str(carried)))


def leads_inside(host: str) -> bool:
    """Whether a URL's host says by itself that it is no public one: this machine's name, or an address that
    is not public or not written plainly. `127.1`, `0x7f000001` and `%31` are 127.0.0.1, or begin so, to some
    clients."""
    host = host.lower().rstrip(".")
    if not host or "%" in host or host in _LOCAL_NAMES or host.endswith(".localhost"):
        return True
    last = host.rpartition(".")[2]
    is_address = ":" in host or last.isdigit() or last.startswith("0x")
    return is_address and is_not_public(host)
