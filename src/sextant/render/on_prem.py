"""The mode `on-prem`: one or more servers without a cluster.

Units or compose, a front with TLS 1.3, a standby pair where asked for, firewall rules, and scripts that
install, upgrade with automatic roll-back, roll back and uninstall. Pure; the parts are in `hosts/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from sextant.base.errors import Unsupported
from sextant.render.dumping import text_file
from sextant.render.hosts import (
    backup,
    compose,
    documents,
    engines,
    firewall,
    front,
    hsm,
    kit,
    operating,
    places,
    quantize,
    standby,
    steps,
    units,
)
from sextant.render.hosts.places import Ground
from sextant.render.hosts.scripts import Settings, script_files
from sextant.spec.bundle import Bundle, File, Need, Step
from sextant.spec.rendering import Order

READY_S = 120
"""Longest start without engines of its own unit."""

NO_BACKUPS = (
    "Nothing is backed up, since spec.continuity.backup is not set; `sextant db backup` does it by hand.",
)


def bundle(order: Order) -> Bundle:
    """The bundle of servers without a cluster. Raises Unsupported for what they cannot do."""
    contained = order.deployment.spec.delivery.orchestration == "compose"
    ground = places.ground_of(order, has_front=True, contained=contained)
    hosts = tuple(host for site in order.deployment.spec.sites for host in site.hosts)
    containers = compose.contain(ground) if contained else None
    servers = _Servers(
        hosts,
        standby.pair_of(ground, hosts),
        _placed(containers) if containers else engines.place_engines(ground, hosts),
        backup.backups_of(ground),
        containers,
    )
    files = (*_files(ground, servers), *servers.placed.files)
    names = [file.path.rpartition("/")[2] for file in files if file.path.endswith(".service")]
    files += operating.operating_files(ground, sorted(names), pair=servers.pair is not None)
    settings = _settings(ground, servers, files)
    return Bundle(
        name=order.name,
        mode=order.mode,
        files=tuple(sorted((*files, *script_files(settings)), key=lambda file: file.path)),
        needs=_needs(ground, servers),
        install=_install(ground, servers, settings),
        verify=(
            *steps.VERIFY,
            *(backup.verify_steps() if servers.backups else ()),
            *operating.verify_steps(),
        ),
        upgrade=(
            *steps.upgrade("sudo ./upgrade.sh"),
            *(operating.pair_upgrade() if servers.pair else ()),
        ),
        rollback=(*steps.ROLLBACK, *(backup.restore_steps() if servers.backups else ())),
        uninstall=steps.UNINSTALL,
        diagram=_diagram(ground, servers),
        notes=_notes(ground, servers),
    )


class _Servers(msgspec.Struct, frozen=True):
    """Which machines there are and what they do."""

    hosts: tuple[str, ...]
    pair: tuple[str, str] | None
    placed: engines.Placed
    backups: backup.Backups | None
    containers: compose.Contained | None

    @property
    def roles(self) -> tuple[str, ...]:
        """What servers are called; empty: there is only one."""
        count = max(self.placed.servers, 2 if self.pair else 1)
        return tuple(f"server-{number}" for number in range(count)) if count > 1 else ()

    @property
    def gateways(self) -> tuple[str, ...]:
        """Roles that have a gateway and a front; `all` where there are no roles."""
        return self.roles[: 2 if self.pair else 1] or ("all",)


def _placed(containers: compose.Contained) -> engines.Placed:
    """What the rest of the bundle must know of engines in containers."""
    return engines.Placed(
        balances=containers.balances, variables=containers.variables, ready_s=containers.ready_s
    )


def _files(ground: Ground, servers: _Servers) -> tuple[File, ...]:
    placed, containers = servers.placed, servers.containers
    roots = compose.endpoints(ground, containers) if containers else None
    return (
        *units.slices(),
        units.target(ground),
        *(compose.compose_files(ground, containers) if containers else _processes(ground, placed)),
        *front.front_files(ground, placed.balances),
        *firewall.firewall_files(ground, _rules(ground, servers)),
        *(standby.standby_files(ground, servers.pair) if servers.pair else ()),
        *(backup.backup_files(ground, servers.backups) if servers.backups else ()),
        *(quantize.quantize_files(ground) if quantize.wanted(ground) else ()),
        *kit.kit_files(ground, compose.kit_of(ground, containers) if containers else kit.Kit()),
        text_file("sextant.yaml", documents.served_document(ground, roots)),
        text_file("units.list", "\n".join(_started(servers))),
    )


def _processes(ground: Ground, placed: engines.Placed) -> tuple[File, ...]:
    """Units of what runs without containers."""
    after = tuple(unit.name for server, unit in placed.units if server == 0)
    return (
        units.serving_unit(ground, after=after, ready_s=placed.ready_s or READY_S),
        *(units.engine_unit(ground, unit) for _, unit in placed.units),
    )


def _rules(ground: Ground, servers: _Servers) -> firewall.Rules:
    """Raises Unsupported where rules would have to hold names."""
    own = {ground.port, *(ground.engine_port(served) for served in ground.launched)}
    if ground.order.deployment.spec.control.host in places.LOOPBACK:
        own.add(ground.control_port)
    for balance in servers.placed.balances:
        own |= {int(server.rpartition(":")[2]) for server in balance.servers}
    peers = sorted({*servers.hosts, *(servers.pair or ())}) if servers.roles else []
    named = sorted(set(peers) - set(firewall.addresses(peers)))
    if named:
        raise Unsupported(
            f"{ground.order.name}: its servers talk to each other, and firewall rules hold no names, which "
            f"could change behind them; write addresses instead of {', '.join(named)} in spec.sites[].hosts",
            field="spec.sites",
        )
    return firewall.Rules(own_ports=tuple(sorted(own)), peers=tuple(peers), pair=servers.pair is not None)


def _started(servers: _Servers) -> list[str]:
    """Who runs which unit: `ROLE UNIT` a line."""
    lines = ["all sextant.target", f"all {firewall.UNIT}"]
    for server, unit in servers.placed.units:
        lines.append(f"{f'server-{server}' if servers.roles else 'all'} {unit.name}")
    if servers.containers:
        lines += [f"all {compose.unit_of(engine.name)}" for engine in servers.containers.engines]
    for role in servers.gateways:
        lines += [f"{role} sextant.service", f"{role} {front.UNIT}"]
        lines += [f"{role} {standby.UNIT}"] if servers.pair else []
        lines += [f"{role} {backup.TIMER}"] if servers.backups else []
    return lines


def _settings(ground: Ground, servers: _Servers, files: Sequence[File]) -> Settings:
    order, placed = ground.order, servers.placed
    backups, contained = servers.backups, servers.containers is not None
    program = order.deployment.spec.delivery.front
    return Settings(
        name=order.name,
        version=order.version,
        release=places.release_of(order, {file.path: file.content for file in files}),
        url=ground.url,
        ready_s=int(placed.ready_s) + READY_S,
        front=program,
        contained=contained,
        tls=True,
        engine_variables=placed.variables,
        models=documents.models_of_kit(ground),
        secret_variables=places.secret_variables(ground),
        secret_files=places.secret_files(ground),
        weights_folder=engines.WEIGHTS if ground.launched else "",
        hsm=hsm.used_here(ground),
        hsm_group=hsm.group(ground),
        hsm_tls=hsm.front_hsm(ground) is not None,
        backup_repository=backups.repository if backups else "",
        backup_keep_days=backups.keep_days if backups else 0,
        backup_holder=backups.holder if backups else "",
        users=("sextant", "sextant-front", *(("sextant-engine",) if placed.units else ())),
        programs=(
            "docker" if contained else program,
            "nft",
            *(("keepalived",) if servers.pair else ()),
            *(("restic",) if backups else ()),
        ),
        roles=servers.roles,
    )


def _needs(ground: Ground, servers: _Servers) -> tuple[Need, ...]:
    program = ground.order.deployment.spec.delivery.front
    containers = servers.containers
    return (
        *(
            compose.needs(ground, containers)
            if containers
            else (
                Need(
                    "program", "python3", "runs Sextant; 3.11 or newer, with venv", "python3 -m venv --help"
                ),
                Need("program", program, "is the front", f"command -v {program}"),
            )
        ),
        Need("program", "nft", "loads the firewall rules", "command -v nft"),
        *_pair_needs(servers),
        *operating.needs(ground),
        *hsm.needs(ground),
        *documents.tls_needs(ground),
        *places.secret_needs(ground),
        *places.identity_needs(ground),
        *(backup.needs(ground, servers.backups) if servers.backups else ()),
        *(engines.needs(ground) if not containers else ()),
        *documents.model_needs(ground),
    )


def _pair_needs(servers: _Servers) -> tuple[Need, ...]:
    if servers.pair is None:
        return ()
    return (
        Need("program", "keepalived", "moves the address of the pair", "command -v keepalived"),
        Need(
            "network",
            "VRRP (IP protocol 112) between the two",
            f"{' and '.join(servers.pair)} watch each other",
        ),
    )


def _install(ground: Ground, servers: _Servers, settings: Settings) -> tuple[Step, ...]:
    role = f" --role {settings.roles[0]}" if settings.roles else ""
    tls = f"{_certificate(ground)}{role}"
    variables = (backup.CREDENTIALS,) if servers.backups and not servers.backups.folder else ()
    return (
        *places.secret_steps(ground, *variables),
        *hsm.install_steps(ground),
        *(engines.install_steps(ground) if not servers.containers else ()),
        *(quantize.install_steps(ground) if quantize.wanted(ground) else ()),
        Step(
            f"Install and start{f', on {_host(servers, 0)}' if settings.roles else ''}",
            (f"sudo ./install.sh {tls}",),
            "It shows the first API key and the admin credential once; keep them.",
        ),
        *kit.offline_steps(signed=False),
        Step(
            "Then on the closed machine",
            (f"sudo ./install-offline.sh {tls}",),
            "The same as install.sh, from what was collected.",
        ),
        *_further_servers(servers, settings, certificate=_certificate(ground)),
    )


def _certificate(ground: Ground) -> str:
    """Arguments of install.sh."""
    return "--cert ../server.pem" + ("" if hsm.front_hsm(ground) else " --key ../server.key")


def _host(servers: _Servers, number: int) -> str:
    """What a server is called for the operator: its address, where the document has one."""
    return servers.hosts[number] if number < len(servers.hosts) else servers.roles[number]


def _further_servers(servers: _Servers, settings: Settings, *, certificate: str) -> Iterator[Step]:
    """The servers after the first one, which share its keys."""
    names = [*(("engine-key", "engine-key.env") if settings.engine_variables else ())]
    names += ["backup-password"] if servers.backups else []
    for number, role in enumerate(servers.roles[1:], start=1):
        host = _host(servers, number)
        shared = (
            f"sudo tar -C {places.ETC} -cf - {' '.join(names)} | "
            f"ssh {host} 'sudo mkdir -p {places.ETC} && sudo tar -C {places.ETC} -xf -'"
        )
        yield Step(
            f"Then {host}, with the keys of the first server",
            (
                *((shared,) if names else ()),
                f"sudo ./install.sh {certificate} --role {role}",
            ),
            "The first is typed on the first server, the second on this one, in a copy of this folder, with "
            "the same secrets in place."
            if names
            else "In a copy of this folder there, with the same secrets in place.",
        )


def _diagram(ground: Ground, servers: _Servers) -> str:
    lines = ["flowchart LR", f'    callers["callers"] -->|"TLS 1.3 :{ground.public_port}"| front']
    if servers.pair:
        address = ground.order.deployment.spec.continuity.standby
        shown = address.address if address is not None else ""
        lines[1] = f'    callers["callers"] -->|"TLS 1.3 {shown}:{ground.public_port}"| front'
        lines.append(f'    standby["{standby.UNIT} on two servers"] -.->|"who has the address"| front')
    lines.append(f'    front["{front.UNIT}"] -->|"127.0.0.1:{ground.port}"| serving["sextant.service"]')
    lines.append(f'    serving --> state[("{places.STATE}")]')
    for each in servers.containers.engines if servers.containers else ():
        lines.append(f'    serving --> {each.name}["container {each.name}"]')
    for server, unit in servers.placed.units:
        lines.append(f'    serving --> engine-{unit.key}["{unit.name} on server {server}"]')
    return "\n".join(lines)


def _notes(ground: Ground, servers: _Servers) -> tuple[str, ...]:
    found = [
        "These units have not been run under systemd as process 1 by whoever made this version; systemd's "
        "own checks pass on them, and their commands were run with their environment and limits."
    ]
    if servers.containers:
        found.append(compose.NOTE)
    if quantize.wanted(ground):
        found.append(quantize.NOTE)
    found += hsm.notes(ground)
    reached = units.outside_hosts(ground.order.deployment.spec)
    if ground.order.defaults.egress != "open" and firewall.addresses(reached) != reached:
        names = ", ".join(sorted(set(reached) - set(firewall.addresses(reached))))
        found.append(
            f"sextant.service may reach any address, since what it needs has names: {names}. Write "
            f"addresses, or add IPAddressDeny=any and IPAddressAllow= to the unit yourself."
        )
    elif ground.order.defaults.egress != "open":
        found.append(
            "sextant.service reaches nothing but this server and the addresses that the document names; "
            "webhooks of budgets to other places fail until IPAddressAllow= of the unit names them."
        )
    found += backup.notes(ground, servers.backups) if servers.backups else NO_BACKUPS
    if servers.pair and ground.launched:
        found.append(
            "The pair keeps the address and the gateway up. Engines run where units.list puts them: where "
            "all replicas of a model are on one server, the model is gone while that server is."
        )
    if servers.pair:
        found.append(
            "A partition that leaves both servers of the pair reachable gives both the address; their "
            "accounts and ledger stay one, in the shared database."
        )
    return tuple(found)
