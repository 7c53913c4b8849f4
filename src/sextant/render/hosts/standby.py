"""The standby pair: keepalived moves the address to the other server when the front or the gateway fails.

What each part is for was measured (`tests/install/test_standby_pair.py`). No weights: with `nopreempt` a
failed check must be a fault, since a lower priority moves nothing. The gateway is asked for `/health` and not
only connected to, since one that hangs still lets callers connect. A keepalived that is killed leaves its
address behind: systemd takes it away and starts it again. State that must not split is kept outside of the
pair.
"""

from __future__ import annotations

from sextant.base.errors import Unsupported
from sextant.render.dumping import text_file
from sextant.render.hosts.places import BUNDLE, ETC, Ground
from sextant.render.hosts.units import HARDENED, INSTALL, NO_DEVICES, unit_file
from sextant.spec.bundle import File
from sextant.spec.stores import SQLITE

UNIT = "sextant-standby.service"
CHECK = "gateway-answers.sh"
ADVERT_S = 0.1
TIMEOUT_S = 2
"""A gateway that answers a check later than that is taken for one that hangs."""
PRIORITIES = (150, 100)
"""Of the first and the second server; who has the address keeps it (`nopreempt`)."""


def pair_of(ground: Ground, hosts: tuple[str, ...]) -> tuple[str, str] | None:
    """The two servers' addresses; None where there is no pair.

    Raises Unsupported for a store that both cannot share, and where the first server is not named."""
    standby = ground.order.deployment.spec.continuity.standby
    if standby is None:
        return None
    if ground.order.deployment.spec.store.url == SQLITE:
        raise Unsupported(
            f"{ground.order.name}: a standby pair needs a store that both servers share, since files on one "
            f"of them are gone with it; spec.store is `{SQLITE}`, expected postgresql://USER@HOST/DATABASE",
            field="spec.store",
        )
    own = [host for host in hosts if host != standby.peer]
    if not own:
        raise Unsupported(
            f"{ground.order.name}: the address of the first server of the pair is not known; write it as the "
            f"first of `sites: [{{hosts: [...]}}]`, before the peer {standby.peer}",
            field="spec.sites",
        )
    return own[0], standby.peer


def standby_files(ground: Ground, pair: tuple[str, str]) -> tuple[File, ...]:
    """keepalived's configuration of each of the two, and its unit."""
    standby = ground.order.deployment.spec.continuity.standby
    assert standby is not None
    files = []
    for number, own in enumerate(pair):
        text = _TEXT.format(
            router=f"sextant_{number}",
            front_port=ground.public_port,
            front_host=ground.public_host or "127.0.0.1",
            gateway_port=ground.port,
            check=f"{BUNDLE}/{CHECK}",
            timeout_s=TIMEOUT_S,
            interface=standby.interface,
            router_id=standby.router_id,
            priority=PRIORITIES[number],
            advert_s=ADVERT_S,
            own=own,
            peer=pair[1 - number],
            address=standby.address,
        )
        files.append(text_file(f"hosts/server-{number}/keepalived.conf", text))
    check = File(CHECK, _CHECK.format(timeout_s=TIMEOUT_S).encode(), executable=True)
    return (*files, check, _unit(ground))


def _unit(ground: Ground) -> File:
    standby = ground.order.deployment.spec.continuity.standby
    assert standby is not None
    bits = 128 if ":" in standby.address else 32
    left = f"{standby.address}/{bits} dev {standby.interface}"
    start = f"/usr/sbin/keepalived --dont-fork --log-console --no-syslog -f {ETC}/keepalived.conf"
    run = "/run/sextant-standby"
    paths = f"-p {run}/main.pid -r {run}/vrrp.pid -c {run}/checkers.pid"
    return unit_file(
        UNIT,
        (
            "Unit",
            (
                ("Description", f"Sextant {ground.order.name}: the address of the pair"),
                ("Documentation", f"file://{BUNDLE}/README.md"),
                ("Wants", "network-online.target"),
                ("After", "network-online.target sextant-front.service"),
                ("PartOf", "sextant.target"),
                ("StartLimitIntervalSec", "0"),
            ),
        ),
        (
            "Service",
            (
                ("Type", "exec"),
                ("ExecStart", f"{start} {paths}"),
                ("ExecStopPost", f"-/usr/sbin/ip address delete {left}"),
                ("ExecReload", "/bin/kill -HUP $MAINPID"),
                ("KillMode", "mixed"),
                ("Restart", "always"),
                ("RestartSec", "100ms"),
                ("RuntimeDirectory", "sextant-standby"),
                ("Slice", "sextant-serving.slice"),
                ("OOMScoreAdjust", "-900"),
                *HARDENED,
                ("RestrictAddressFamilies", "AF_NETLINK AF_PACKET"),
                *NO_DEVICES,
                ("CapabilityBoundingSet", "CAP_NET_ADMIN CAP_NET_RAW"),
                ("MemoryDenyWriteExecute", "yes"),
            ),
        ),
        INSTALL,
    )


_CHECK = """\
#!/bin/bash
# gateway-answers.sh PORT, for keepalived: whether the gateway on this server answers. One that hangs lets
# callers connect and never answers.
set -eu
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET /health HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nConnection: close\\r\\n\\r\\n' >&3
read -r -t {timeout_s} _ status _ <&3 && [ "$status" = 200 ]
"""
_TEXT = """\
# One of a pair; the other one differs in its addresses and its priority.
global_defs {{
    router_id {router}
    vrrp_version 3
    script_user root
    enable_script_security
    vrrp_garp_master_refresh 60
}}

vrrp_script front {{
    script "/bin/bash -c '</dev/tcp/{front_host}/{front_port}'"
    interval 1
    timeout {timeout_s}
    fall 1
    rise 2
}}

vrrp_script gateway {{
    script "/bin/bash {check} {gateway_port}"
    interval 1
    timeout {timeout_s}
    fall 1
    rise 2
}}

vrrp_instance sextant {{
    state BACKUP
    nopreempt
    interface {interface}
    virtual_router_id {router_id}
    priority {priority}
    advert_int {advert_s}
    unicast_src_ip {own}
    unicast_peer {{
        {peer}
    }}
    virtual_ipaddress {{
        {address} dev {interface}
    }}
    track_script {{
        front
        gateway
    }}
}}
"""
