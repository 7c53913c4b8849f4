"""Firewall rules of a server: who may reach which port. A table of its own, so that the host's rules stay.

Ports of ours are closed to all but the front's; what else the host offers, ssh among it, is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sextant.render.dumping import text_file
from sextant.render.hosts.places import BUNDLE, ETC, Ground
from sextant.render.hosts.units import HARDENED, INSTALL, NO_DEVICES, unit_file
from sextant.spec.bundle import File

UNIT = "sextant-firewall.service"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What is open to whom."""

    own_ports: tuple[int, ...]
    """Open to this server and to its peers alone."""
    peers: tuple[str, ...] = ()
    """Addresses of the other servers of the deployment."""
    pair: bool = False
    """Whether VRRP between the peers must pass."""


def firewall_files(ground: Ground, rules: Rules) -> tuple[File, ...]:
    """The rules and the unit that loads them."""
    return text_file("front/sextant.nft", ruleset(rules)), _unit(ground)


def ruleset(rules: Rules) -> str:
    """The table `inet sextant`, for `nft -f`; loading it again replaces it in one step."""
    four = [peer for peer in rules.peers if ":" not in peer]
    six = [peer for peer in rules.peers if ":" in peer]
    ports = ", ".join(str(port) for port in rules.own_ports)
    lines = ["ct state established,related accept", "iif lo accept"]
    for family, found in (("ip", four), ("ip6", six)):
        if found:
            lines.append(f"{family} saddr {{ {', '.join(found)} }} tcp dport {{ {ports} }} accept")
            if rules.pair:
                lines.append(f"{family} saddr {{ {', '.join(found)} }} meta l4proto 112 accept")
    if rules.pair:
        lines.append('meta l4proto 112 counter drop comment "VRRP from strangers"')
    lines.append(f'tcp dport {{ {ports} }} counter drop comment "not for others"')
    body = "\n".join(f"        {line}" for line in lines)
    return (
        "#!/usr/sbin/nft -f\n"
        "# Created, emptied and filled in one transaction: there is no moment without rules.\n"
        "table inet sextant\n"
        "delete table inet sextant\n\n"
        "table inet sextant {\n    chain input {\n"
        "        type filter hook input priority filter - 5; policy accept;\n"
        f"{body}\n    }}\n}}\n"
    )


def addresses(hosts: Sequence[str]) -> tuple[str, ...]:
    """Those that are written as numbers: rules hold no names, which could change behind them."""
    return tuple(host for host in hosts if not _is_name(host))


def _is_name(host: str) -> bool:
    return ":" not in host and not all(part.isdigit() for part in host.split("."))


def _unit(ground: Ground) -> File:
    return unit_file(
        UNIT,
        (
            "Unit",
            (
                ("Description", f"Sextant {ground.order.name}: firewall rules"),
                ("Documentation", f"file://{BUNDLE}/README.md"),
                ("DefaultDependencies", "no"),
                ("Wants", "network-pre.target"),
                ("Before", "network-pre.target"),
                ("After", "local-fs.target"),
                ("PartOf", "sextant.target"),
            ),
        ),
        (
            "Service",
            (
                ("Type", "oneshot"),
                ("RemainAfterExit", "yes"),
                ("ExecStart", f"/usr/sbin/nft -f {ETC}/sextant.nft"),
                ("ExecReload", f"/usr/sbin/nft -f {ETC}/sextant.nft"),
                ("ExecStop", "/usr/sbin/nft delete table inet sextant"),
                *(line for line in HARDENED if line[0] != "RestrictAddressFamilies"),
                ("RestrictAddressFamilies", "AF_UNIX AF_NETLINK"),
                *NO_DEVICES,
                ("CapabilityBoundingSet", "CAP_NET_ADMIN"),
                ("MemoryDenyWriteExecute", "yes"),
                ("IPAddressDeny", "any"),
            ),
        ),
        INSTALL,
    )
