"""The mode `on-prem`: one or more servers without a cluster.

Units or compose, a front with TLS 1.3, a standby pair where asked for, firewall rules, and scripts that
install, upgrade with automatic roll-back, roll back and uninstall. Pure; the parts are in `hosts/`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sextant.render.dumping import text_file
from sextant.render.hosts import documents, engines, front, kit, places, steps, units
from sextant.render.hosts.places import Ground
from sextant.render.hosts.scripts import Settings, script_files
from sextant.spec.bundle import Bundle, File, Need, Step
from sextant.spec.rendering import Order

READY_S = 120
"""Longest start without engines of its own unit."""


def bundle(order: Order) -> Bundle:
    """The bundle of servers without a cluster. Raises Unsupported for what they cannot do."""
    ground = places.ground_of(order, has_front=True)
    hosts = tuple(host for site in order.deployment.spec.sites for host in site.hosts)
    placed = engines.place_engines(ground, hosts)
    files = (*_files(ground, placed), *placed.files)
    settings = _settings(ground, placed, files)
    return Bundle(
        name=order.name,
        mode=order.mode,
        files=tuple(sorted((*files, *script_files(settings)), key=lambda file: file.path)),
        needs=_needs(ground),
        install=_install(settings),
        verify=steps.VERIFY,
        upgrade=steps.upgrade("sudo ./upgrade.sh"),
        rollback=steps.ROLLBACK,
        uninstall=steps.UNINSTALL,
        diagram=_diagram(ground, placed),
        notes=_notes(ground),
    )


def _files(ground: Ground, placed: engines.Placed) -> tuple[File, ...]:
    engine_units = tuple(units.engine_unit(ground, unit) for _, unit in placed.units)
    after = tuple(unit.name for server, unit in placed.units if server == 0)
    services = (
        *units.slices(),
        units.target(ground),
        units.serving_unit(ground, after=after, ready_s=placed.ready_s or READY_S),
        *engine_units,
        *front.front_files(ground, placed.balances),
    )
    return (
        *services,
        *kit.kit_files(ground, kit.Kit(weights_folder=engines.WEIGHTS if ground.launched else "")),
        text_file("sextant.yaml", documents.served_document(ground)),
        text_file("units.list", "\n".join(_started(ground, placed))),
    )


def _started(ground: Ground, placed: engines.Placed) -> list[str]:
    """Who runs which unit: `ROLE UNIT` a line."""
    several = len(_roles(ground, placed)) > 1
    lines = ["all sextant.target"]
    for server, unit in placed.units:
        lines.append(f"{f'server-{server}' if several else 'all'} {unit.name}")
    for name in ("sextant.service", front.UNIT):
        lines.append(f"{'server-0' if several else 'all'} {name}")
    return lines


def _roles(ground: Ground, placed: engines.Placed) -> tuple[str, ...]:
    """What servers are called; empty: there is only one."""
    count = placed.servers
    return tuple(f"server-{number}" for number in range(count)) if count > 1 else ()


def _settings(ground: Ground, placed: engines.Placed, files: Sequence[File]) -> Settings:
    order = ground.order
    users = ["sextant", "sextant-front", *(["sextant-engine"] if placed.units else [])]
    program = order.deployment.spec.delivery.front
    return Settings(
        name=order.name,
        version=order.version,
        release=places.release_of(order, {file.path: file.content for file in files}),
        url=ground.url,
        ready_s=int(placed.ready_s) + READY_S,
        front=program,
        tls=True,
        engine_variables=placed.variables,
        models=documents.models_of_kit(ground),
        users=tuple(users),
        programs=(program,),
        roles=_roles(ground, placed),
    )


def _needs(ground: Ground) -> tuple[Need, ...]:
    program = ground.order.deployment.spec.delivery.front
    return (
        Need("program", "python3", "runs Sextant; 3.11 or newer, with venv", "python3 -m venv --help"),
        Need("program", program, "is the front", f"command -v {program}"),
        *documents.tls_needs(ground),
        *places.secret_needs(ground),
        *engines.needs(ground),
        *documents.model_needs(ground),
    )


def _install(settings: Settings) -> tuple[Step, ...]:
    role = f" --role {settings.roles[0]}" if settings.roles else ""
    return (
        Step(
            "Install and start",
            (f"sudo ./install.sh --cert server.pem --key server.key{role}",),
            "It shows the first API key and the admin credential once; keep them.",
        ),
        *kit.offline_steps(signed=False),
        Step(
            "Then on the closed machine, instead of the first step",
            (f"sudo ./install-offline.sh --cert server.pem --key server.key{role}",),
        ),
    )


def _diagram(ground: Ground, placed: engines.Placed) -> str:
    port = ground.public_port
    lines = ["flowchart LR", f'    callers["callers"] -->|"TLS 1.3 :{port}"| front["{front.UNIT}"]']
    lines.append(f'    front -->|"127.0.0.1:{ground.port}"| serving["sextant.service"]')
    lines.append(f'    serving --> state[("{places.STATE}")]')
    for server, unit in placed.units:
        lines.append(f'    serving --> engine-{unit.key}["{unit.name} on server {server}"]')
    return "\n".join(lines)


def _notes(ground: Ground) -> tuple[str, ...]:
    found = [
        "These units have not been run under systemd as process 1 by whoever made this version; systemd's "
        "own checks pass on them, and their commands were run with their environment and limits."
    ]
    if ground.order.defaults.encryption == "hsm":
        found.append(
            "The profile wants keys held by an HSM. This version of Sextant has no keys of its own to put "
            "there; the front's TLS key can stand in one through OpenSSL's pkcs11 provider, by hand."
        )
    return tuple(found)
