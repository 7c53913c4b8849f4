"""Engines as units: which server runs which replica of which model, on which accelerators and port.

The plan says how many accelerators one replica takes and how many replicas there are; here they are laid on
servers one after another. What spans servers fills them whole. Neighbours: `catalog/arguments.py` (argv),
`units.py` (the unit's text), `front.py` (the balance among several replicas).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sextant.base.errors import Unsupported
from sextant.catalog import arguments, devices
from sextant.render.hosts.documents import HUBS
from sextant.render.hosts.front import Balance
from sextant.render.hosts.places import Ground
from sextant.render.hosts.units import EngineUnit
from sextant.spec.bundle import File, Need, Step
from sextant.spec.rendering import ServedModel

WEIGHTS = "/srv/sextant/models"
"""Weights of launched engines: large, and shared by releases."""
ENGINES = "/opt/sextant-engines"
"""Engines are installed beside Sextant, each in a folder of its kind, unless the document names a program."""
REPLICA_PORT = 9200
"""Of the first replica where a model has several; the next ones follow."""
START_S = 900.0
"""Longest start where neither the document nor the plan says more."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything of the engines is."""

    units: tuple[tuple[int, EngineUnit], ...] = ()
    """Server and unit."""
    balances: tuple[Balance, ...] = ()
    files: tuple[File, ...] = ()
    """That engines read, below `engine/`; the unit finds them in the bundle."""
    variables: tuple[str, ...] = ()
    """That carry the engines' key."""
    servers: int = 1
    ready_s: float = 0.0


def place_engines(ground: Ground, hosts: Sequence[str]) -> Placed:
    """Lays the launched models of the order on servers. `hosts` are their names, where the document has them.

    Raises Unsupported for a plan that splits prefill from decode, and where servers must know each other and
    the document does not name them."""
    units: list[tuple[int, EngineUnit]] = []
    balances: list[Balance] = []
    files: dict[str, File] = {}
    variables: set[str] = set()
    server, used = 0, 0
    for served in ground.launched:
        layout = served.option.layout if served.option is not None else None
        if layout is not None and layout.prefill is not None:
            raise Unsupported(
                f"{served.entry.name}: its plan splits prefill from decode, which needs a router; servers "
                f"without a cluster have none: pin a plan without a split, or use the mode private-cloud"
            )
        replicas = layout.dp if layout is not None else 1
        endpoints = []
        for number in range(replicas):
            one = _replica(ground, served, number=number, several=replicas > 1 or _spread(ground))
            per_node = _per_node(served)
            if used + one.need > per_node or one.nodes > 1:
                server, used = server + (1 if used else 0), 0
            endpoints.append(_endpoint(ground, hosts, server, one))
            units.extend(_units(ground, one, server=server, first=used, hosts=hosts))
            files.update((file.path, file) for file in one.files)
            variables.update(one.command.secret_env)
            server, used = (server + one.nodes, 0) if one.nodes > 1 else (server, used + one.need)
        if replicas > 1 or endpoints[0].partition(":")[0] != "127.0.0.1":
            balances.append(Balance(served.key, ground.engine_port(served), tuple(endpoints)))
    return Placed(
        units=tuple(units),
        balances=tuple(balances),
        files=tuple(files[path] for path in sorted(files)),
        variables=tuple(sorted(variables)),
        servers=max((place for place, _ in units), default=0) + 1,
        ready_s=max((unit.ready_s for _, unit in units), default=0.0),
    )


def needs(ground: Ground) -> tuple[Need, ...]:
    """Programs and weights of launched engines, for who installs."""
    found = []
    for served in ground.launched:
        kind, folder = served.entry.engine.kind, f"{WEIGHTS}/{served.key}"
        size = f"{served.weights_bytes / 1e9:.1f} GB" if served.weights_bytes else "size not known"
        program = f"{ENGINES}/{kind}/bin"
        how = "" if _from_index(served) else "; install it there as its makers say"
        found.append(
            Need("program", f"{kind} in {ENGINES}/{kind}", f"runs {served.entry.name}{how}", f"ls {program}")
        )
        why = f"weights of {served.entry.name} ({size}), readable by all"
        if (served.entry.source or "").startswith(HUBS):
            why += "; `collect.sh` in this folder fetches them, and the installation then brings them there"
        found.append(Need("storage", folder, why, f"ls {folder}"))
    return tuple(found)


def install_steps(ground: Ground) -> tuple[Step, ...]:
    """How the programs of engines come to a server, where a package index has them."""
    versions = {
        served.entry.engine.kind: ground.order.facts.engines[served.entry.engine.kind].version
        for served in ground.launched
        if _from_index(served)
    }
    if not versions or ground.order.mode != "on-prem":
        return ()
    typed = []
    for kind, version in sorted(versions.items()):
        typed.append(f"sudo python3 -m venv {ENGINES}/{kind}")
        typed.append(f"sudo {ENGINES}/{kind}/bin/pip install {kind}=={version}")
    why = "The units' arguments were written for that version. Without a network: bring the folder along."
    return (Step("Install the engine", tuple(typed), why),)


def _from_index(served: ServedModel) -> bool:
    """Whether pip's own index has the engine for these accelerators."""
    return served.entry.engine.kind in ("vllm", "sglang") and served.vendor == "nvidia"


class _Replica(msgspec.Struct, frozen=True, kw_only=True):
    served: ServedModel
    name: str
    port: int
    command: arguments.Command
    need: int
    """Accelerators on each of its servers."""
    nodes: int
    files: tuple[File, ...]


def _replica(ground: Ground, served: ServedModel, *, number: int, several: bool) -> _Replica:
    port = ground.engine_port(served)
    if several:
        port = REPLICA_PORT + 100 * ground.launched.index(served) + number
    kind = served.entry.engine.kind
    serving = arguments.serving_of(
        ground.order, served, model_path=f"{WEIGHTS}/{served.key}", in_container=False
    )
    program = serving.command or _program(serving.engine.command, kind)
    serving = msgspec.structs.replace(
        serving,
        command=program,
        port=port,
        leader="${ENGINE_LEADER}",
        rank="${ENGINE_RANK}",
        files_folder=f"/opt/sextant/current/bundle/engine/{served.key}",
    )
    made = arguments.command(serving)
    if made.nodes == 1 and not _spread(ground):
        made = arguments.command(msgspec.structs.replace(serving, host="127.0.0.1"))
    return _Replica(
        served=served,
        name=f"{served.key}-{number}" if several else served.key,
        port=port,
        command=made,
        need=made.per_node if served.option is not None else 0,
        nodes=made.nodes,
        files=tuple(
            File(path.removeprefix("/opt/sextant/current/bundle/"), content)
            for path, content in made.files.items()
        ),
    )


def _program(command: Sequence[str], kind: str) -> tuple[str, ...]:
    """The engine's usual program, in the folder of its kind."""
    first, *rest = command
    return (first if first.startswith("/") else f"{ENGINES}/{kind}/bin/{first}", *rest)


def _spread(ground: Ground) -> bool:
    """Whether gateways reach engines over the network: there is a second gateway, or more than one server."""
    if ground.order.deployment.spec.continuity.standby is not None:
        return True
    needed: dict[int, int] = {}
    for served in ground.launched:
        if served.option is not None:
            per_node = _per_node(served)
            needed[per_node] = needed.get(per_node, 0) + served.option.layout.count
    return any(count > per_node for per_node, count in needed.items())


def _per_node(served: ServedModel) -> int:
    return served.option.accelerator.per_node if served.option is not None else 1


def _endpoint(ground: Ground, hosts: Sequence[str], server: int, one: _Replica) -> str:
    if not _spread(ground):
        return f"127.0.0.1:{one.port}"
    return f"{_host(hosts, server, one.served)}:{one.port}"


def _host(hosts: Sequence[str], server: int, served: ServedModel) -> str:
    if server < len(hosts):
        return hosts[server]
    raise Unsupported(
        f"{served.entry.name}: its plan needs server {server + 1}, and spec.sites names {len(hosts)} hosts; "
        f"write all of them in `sites: [{{hosts: [...]}}]`",
        field="spec.sites",
    )


def _units(
    ground: Ground, one: _Replica, *, server: int, first: int, hosts: Sequence[str]
) -> list[tuple[int, EngineUnit]]:
    served, made = one.served, one.command
    device = devices.device_of(ground.order, served) if served.option is not None else None
    env = dict(made.env)
    if device is not None and device.visible and made.nodes == 1:
        env[device.visible] = ",".join(str(number) for number in range(first, first + one.need))
    if made.nodes > 1:
        env["ENGINE_LEADER"] = _host(hosts, server, served)
    stated = getattr(served.entry.engine, "ready_timeout_s", None)
    unit = EngineUnit(
        served=served,
        key=one.name,
        command=msgspec.structs.replace(made, env=env),
        device=device,
        argv=made.argv,
        ready_s=float(stated or max(START_S, 2 * served.load_s)),
        local=made.nodes == 1 and not _spread(ground),
    )
    found = [(server, unit)]
    for number in range(1, made.nodes):
        _host(hosts, server + number, served)
        ranked = msgspec.structs.replace(made, env={**env, "ENGINE_RANK": str(number)})
        worker = msgspec.structs.replace(
            unit, argv=made.worker_argv, command=ranked, key=f"{one.name}-worker-{number}"
        )
        found.append((server + number, worker))
    return found
