"""systemd units: what each process may do, how much it may take, and when it is started again.

`HARDENED` is what every unit of ours has; `systemd-analyze security` holds each unit below 2.5 in the tests.
Keys follow systemd 252, Debian 12's. Neighbours: `places.py`, `scripts.py` (which installs these).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from sextant.catalog.arguments import Command
from sextant.render.dumping import text_file
from sextant.render.hosts.places import BUNDLE, ENGINE_KEY, LOOPBACK, SECRETS, STATE, VENV, Ground
from sextant.spec.bundle import File
from sextant.spec.document import Spec
from sextant.spec.engine_sections import RemoteEngine
from sextant.spec.rendering import Device, ServedModel
from sextant.spec.security_sections import Hsm

Line = tuple[str, str]
"""A key of a unit file and its value."""
Section = tuple[str, Sequence[Line]]

IO_LATENCY_MS = 25
"""Other groups' I/O on the same device is held back while ours waits longer than this."""
GIB = 1 << 30
HARDENED: tuple[Line, ...] = (
    ("NoNewPrivileges", "yes"),
    ("UMask", "0077"),
    ("ProtectSystem", "strict"),
    ("ProtectHome", "yes"),
    ("PrivateTmp", "yes"),
    ("PrivateMounts", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectProc", "invisible"),
    ("RemoveIPC", "yes"),
    ("LockPersonality", "yes"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallFilter", "~@privileged @obsolete"),
    ("SystemCallErrorNumber", "EPERM"),
)
"""Of every service."""
INSTALL: Section = ("Install", (("WantedBy", "sextant.target"),))
NO_DEVICES: tuple[Line, ...] = (("PrivateDevices", "yes"), ("DevicePolicy", "closed"))
NO_RIGHTS: tuple[Line, ...] = (("CapabilityBoundingSet", ""), ("PrivateUsers", "yes"))


class Memory(msgspec.Struct, frozen=True):
    """Above `high_bytes` a unit is slowed down and reclaimed from; at `max_bytes` it is killed."""

    high_bytes: int
    max_bytes: int

    def lines(self) -> tuple[Line, ...]:
        """As systemd takes them."""
        return (("MemoryHigh", _mib(self.high_bytes)), ("MemoryMax", _mib(self.max_bytes)))


def unit_file(name: str, *sections: Section) -> File:
    """One unit. Keys stay in the order given."""
    parts = []
    for title, lines in sections:
        parts.append("\n".join((f"[{title}]", *(f"{key}={value}" for key, value in lines))) + "\n")
    return text_file(f"systemd/{name}", "\n".join(parts))


def target(ground: Ground) -> File:
    """`sextant.target`: everything of this deployment that this server runs."""
    return unit_file(
        "sextant.target",
        (
            "Unit",
            (
                ("Description", f"Sextant {ground.order.name}"),
                ("Documentation", f"file://{BUNDLE}/README.md"),
            ),
        ),
        ("Install", (("WantedBy", "multi-user.target"),)),
    )


def slices() -> tuple[File, ...]:
    """Two groups: what answers requests comes first on processors and disks, what can wait comes last."""
    return (
        unit_file(
            "sextant.slice",
            ("Unit", (("Description", "Sextant"),)),
            ("Slice", (("CPUAccounting", "yes"), ("IOAccounting", "yes"), ("MemoryAccounting", "yes"))),
        ),
        unit_file(
            "sextant-serving.slice",
            ("Unit", (("Description", "Sextant: what answers requests"),)),
            (
                "Slice",
                (
                    ("CPUWeight", "800"),
                    ("IOWeight", "800"),
                    ("IODeviceLatencyTargetSec", f"{STATE} {IO_LATENCY_MS}ms"),
                ),
            ),
        ),
        unit_file(
            "sextant-background.slice",
            ("Unit", (("Description", "Sextant: what can wait"),)),
            ("Slice", (("CPUWeight", "20"), ("IOWeight", "20"))),
        ),
    )


def serving_unit(ground: Ground, *, after: Sequence[str], ready_s: float) -> File:
    """`sextant.service`: the supervisor with gateway, ledger, admin API and embedded engines."""
    spec = ground.order.deployment.spec
    weights_bytes = sum(served.weights_bytes for served in ground.embedded)
    memory = Memory(2 * GIB + 2 * weights_bytes, 3 * GIB + 3 * weights_bytes)
    command = f"{VENV}/bin/sextant up {BUNDLE}/sextant.yaml --state {STATE}"
    return unit_file(
        "sextant.service",
        (
            "Unit",
            (
                (
                    "Description",
                    f"Sextant {ground.order.name}: gateway, ledger, admin API and embedded engines",
                ),
                ("Documentation", f"file://{BUNDLE}/README.md"),
                ("Wants", "network-online.target"),
                ("After", " ".join(("network-online.target", *after))),
                ("PartOf", "sextant.target"),
                ("StartLimitIntervalSec", "300"),
                ("StartLimitBurst", "10"),
            ),
        ),
        (
            "Service",
            (
                ("Type", "exec"),
                ("User", "sextant"),
                ("Group", "sextant"),
                ("ExecStart", command),
                ("Environment", "LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1"),
                ("EnvironmentFile", f"-{SECRETS}"),
                ("WorkingDirectory", STATE),
                ("StateDirectory", "sextant"),
                ("StateDirectoryMode", "0700"),
                ("KillMode", "mixed"),
                ("TimeoutStartSec", str(int(ready_s) + 60)),
                ("TimeoutStopSec", "60"),
                ("Restart", "always"),
                ("RestartSec", "2"),
                ("Slice", "sextant-serving.slice"),
                ("LimitNOFILE", "65536"),
                ("OOMPolicy", "continue"),
                *memory.lines(),
                *HARDENED,
                *hsm_lines(spec.security.hsm),
                *NO_RIGHTS,
                ("MemoryDenyWriteExecute", "yes"),
                *_reachable(spec, ground),
            ),
        ),
        INSTALL,
    )


class EngineUnit(msgspec.Struct, frozen=True, kw_only=True):
    """One engine on one server."""

    served: ServedModel
    key: str
    """Names it among the units."""
    command: Command
    device: Device | None
    """None: it needs no accelerator."""
    argv: tuple[str, ...]
    ready_s: float
    local: bool
    """Whether nothing beyond its own server talks to it."""

    @property
    def name(self) -> str:
        """Of the unit."""
        return f"sextant-engine-{self.key}.service"


def engine_unit(ground: Ground, unit: EngineUnit) -> File:
    """An engine as a service of its own, with its accelerators and nothing else of the machine."""
    served, device = unit.served, unit.device
    groups = device.groups if device is not None else ()
    secret = ("EnvironmentFile", f"-{ENGINE_KEY}.env") if unit.command.secret_env else None
    return unit_file(
        unit.name,
        (
            "Unit",
            (
                ("Description", f"Sextant {ground.order.name}: engine of {served.entry.name}"),
                ("Documentation", f"file://{BUNDLE}/README.md"),
                ("Wants", "network-online.target"),
                ("After", "network-online.target"),
                ("PartOf", "sextant.target"),
                ("StartLimitIntervalSec", "0"),
            ),
        ),
        (
            "Service",
            (
                ("Type", "exec"),
                ("User", "sextant-engine"),
                ("Group", "sextant-engine"),
                *((("SupplementaryGroups", " ".join(groups)),) if groups else ()),
                ("ExecStart", " ".join(quoted(word) for word in unit.argv)),
                *(("Environment", quoted(f"{name}={value}")) for name, value in unit.command.env.items()),
                *((secret,) if secret else ()),
                ("CacheDirectory", "sextant-engine"),
                ("CacheDirectoryMode", "0700"),
                ("Environment", "HOME=/var/cache/sextant-engine"),
                ("KillMode", "mixed"),
                ("TimeoutStartSec", str(int(unit.ready_s))),
                ("TimeoutStopSec", "60"),
                ("Restart", "always"),
                ("RestartSec", "5"),
                ("Slice", "sextant-serving.slice"),
                ("LimitNOFILE", "65536"),
                ("LimitMEMLOCK", "infinity"),
                ("OOMScoreAdjust", "500"),
                *HARDENED,
                ("RestrictAddressFamilies", "AF_NETLINK"),
                *_devices(device, rdma=unit.command.rdma),
                ("CapabilityBoundingSet", ""),
                *((("IPAddressDeny", "any"), ("IPAddressAllow", "localhost")) if unit.local else ()),
            ),
        ),
        INSTALL,
    )


def hsm_lines(hsm: Hsm | None) -> tuple[Line, ...]:
    """Devices, folders and the group that an HSM's library needs; no devices at all where none is used."""
    if hsm is None or not hsm.serves:
        return NO_DEVICES
    devices = tuple(("DeviceAllow", f"{path} rw") for path in hsm.devices)
    return (
        *((("DevicePolicy", "closed"), *devices) if devices else NO_DEVICES),
        *((("ReadWritePaths", " ".join(hsm.folders)),) if hsm.folders else ()),
        *((("SupplementaryGroups", hsm.group),) if hsm.group else ()),
    )


def quoted(word: str) -> str:
    """One word of a command or an assignment, as systemd reads it; `${ENGINE_…}` stays a variable."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    escaped = re.sub(r"\$(?!\{ENGINE_[A-Z]+\})", "$$", escaped)
    return escaped if re.fullmatch(r"[A-Za-z0-9_./:=,+@${}%-]+", escaped) else f'"{escaped}"'


def _devices(device: Device | None, *, rdma: bool) -> tuple[Line, ...]:
    if device is None:
        return (*NO_DEVICES, ("PrivateUsers", "yes"))
    allowed = tuple(("DeviceAllow", f"{path} rw") for path in _device_nodes(device))
    network = (("DeviceAllow", "char-infiniband* rw"),) if rdma else ()
    return (("DevicePolicy", "closed"), *allowed, *network)


def _device_nodes(device: Device) -> tuple[str, ...]:
    """Device files as `DeviceAllow` takes them: several of a kind by their driver's name in /proc/devices."""
    found = []
    for path in device.paths:
        folder, _, name = path.removeprefix("/dev/").rpartition("/")
        driver = _DRIVERS.get(folder, folder or name.rstrip("*"))
        found.append(f"char-{driver}*" if "*" in path or path.endswith("/") else path)
    return tuple(dict.fromkeys(found))


_DRIVERS = {"dri": "drm", "dri/by-path": "drm"}
"""Folders of /dev whose driver has another name."""


def _reachable(spec: Spec, ground: Ground) -> tuple[Line, ...]:
    """Which addresses the gateway may exchange packets with: only those it needs, where all have numbers."""
    local = ground.has_front or spec.gateway.host in LOOPBACK
    if ground.order.defaults.egress == "open" or not local or spec.control.host not in LOOPBACK:
        return ()
    hosts = outside_hosts(spec)
    if not all(_is_address(host) for host in hosts):
        return ()
    return (("IPAddressDeny", "any"), ("IPAddressAllow", " ".join(("localhost", *hosts))))


def outside_hosts(spec: Spec) -> tuple[str, ...]:
    """Hosts beyond this server that the gateway, the ledger and control must reach, by name or number."""
    urls = [spec.store.url, spec.limits.url if spec.limits else ""]
    urls += [one.engine.base_url for one in spec.served if isinstance(one.engine, RemoteEngine)]
    urls += [spec.control.oidc.issuer] if spec.control.oidc else []
    urls += [spec.centre.url] if spec.centre else []
    found = {urlsplit(url).hostname or "" for url in urls}
    found |= {spec.alerts.smtp.host} if spec.alerts.smtp else set()
    found |= set(spec.gateway.limits.media_hosts)
    hsm = spec.security.hsm
    found |= set(hsm.hosts) if hsm is not None and hsm.serves else set()
    return tuple(sorted(found - {"", "127.0.0.1", "::1", "localhost"}))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _mib(amount_bytes: int) -> str:
    return f"{-(-amount_bytes // (1 << 20))}M"
