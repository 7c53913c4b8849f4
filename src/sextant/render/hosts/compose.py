"""Servers that run containers: a compose file, the image of Sextant, and units that start one service each.

The units keep what the scripts stand on (order, restarts, the journal); the containers have the walls: no
root, no capability, a read-only root, bounds, a network without a way out. One server only: engines that span
servers and standby pairs run as units without containers. Neighbours: `engines.py` and `units.py`,
which do the same without containers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sextant.base.errors import Unsupported
from sextant.catalog import arguments, devices, images
from sextant.catalog.arguments import Command
from sextant.render.dumping import script_file, text_file, yaml_file, yaml_text
from sextant.render.hosts.documents import models_of_kit
from sextant.render.hosts.engines import REPLICA_PORT, START_S, WEIGHTS
from sextant.render.hosts.front import UNIT as FRONT_UNIT
from sextant.render.hosts.front import Balance
from sextant.render.hosts.kit import Kit
from sextant.render.hosts.places import (
    BUNDLE,
    ENGINE_KEY,
    ETC,
    FRONT_ADDRESS,
    GATEWAY_ADDRESS,
    MODELS,
    NETWORK,
    SECRETS,
    STATE,
    Ground,
)
from sextant.render.hosts.units import GIB, HARDENED, INSTALL, NO_DEVICES, unit_file
from sextant.spec.bundle import File, Need
from sextant.spec.rendering import Device, ServedModel

FILE = "compose.yaml"
ENV = f"{ETC}/compose.env"
"""Written by the scripts: the image that was built, and the numbers of users."""
MODELS_PATH = "/models"
USER = 65532
"""Who runs in images that were made for root."""
SUBNET = f"{NETWORK}.0/24"
"""Of the network that the containers share. Addresses in it are fixed: proxies look names up only once."""
FIRST_ENGINE = 10
"""Last number of the first engine's address."""
MACHINE = "$(uname -m)"
"""Of the machine that collects."""
GLIBC = ("_2_36", "_2_34", "_2_31", "_2_28", "_2_27", "_2_26", "_2_24", "_2_17", "2014", "_2_12", "_2_5", "1")
"""Platforms that the image's C library runs, the newest first."""
IO_WEIGHT = 800
"""Of 10 to 1000; containers without one have 500."""


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One replica in a container."""

    name: str
    """Of its service; its unit is named after it."""
    served: ServedModel
    command: Command
    image: str
    user: int
    device: Device | None
    address: str
    first: int
    """Number of its first accelerator."""
    ready_s: float


class Contained(msgspec.Struct, frozen=True, kw_only=True):
    """The containers of a server beside the gateway and the front."""

    engines: tuple[Engine, ...]
    balances: tuple[Balance, ...]

    @property
    def ready_s(self) -> float:
        """Longest start of any of them."""
        return max((engine.ready_s for engine in self.engines), default=0.0)

    @property
    def variables(self) -> tuple[str, ...]:
        """That carry the engines' key."""
        return tuple(sorted({name for each in self.engines for name in each.command.secret_env}))


def contain(ground: Ground) -> Contained:
    """The engines of the order as containers of one server. Raises Unsupported for more than that."""
    order, found, balances, used = ground.order, list[Engine](), list[Balance](), 0
    if order.deployment.spec.continuity.standby is not None:
        raise _unsupported(ground, "a standby pair")
    for served in ground.launched:
        layout = served.option.layout if served.option is not None else None
        if layout is not None and layout.prefill is not None:
            raise _unsupported(ground, f"a plan that splits prefill from decode ({served.entry.name})")
        replicas = layout.dp if layout is not None else 1
        ports = [_port(ground, served, number, replicas) for number in range(replicas)]
        for number, port in enumerate(ports):
            name = f"engine-{served.key}" + (f"-{number}" if replicas > 1 else "")
            address = f"{NETWORK}.{FIRST_ENGINE + len(found)}"
            engine = _engine(ground, served, _Seat(name=name, address=address, port=port, first=used))
            used += engine.command.per_node if served.option is not None else 0
            if engine.command.nodes > 1 or used > _per_node(served):
                raise _unsupported(ground, f"the {used} accelerators of its plan")
            found.append(engine)
        if replicas > 1:
            servers = tuple(f"{engine.address}:{engine.command.port}" for engine in found[-replicas:])
            balances.append(Balance(served.key, ground.engine_port(served), servers))
    hosts = dict.fromkeys(host for site in order.deployment.spec.sites for host in site.hosts)
    if len(hosts) > 1:
        raise _unsupported(ground, f"what its sites name ({', '.join(hosts)})")
    return Contained(engines=tuple(found), balances=tuple(balances))


def _unsupported(ground: Ground, what: str) -> Unsupported:
    return Unsupported(
        f"{ground.order.name}: {what} takes several servers, and compose runs one; write "
        f"`orchestration: systemd`, or use the mode private-cloud",
        field="spec.delivery.orchestration",
    )


def _per_node(served: ServedModel) -> int:
    return served.option.accelerator.per_node if served.option is not None else 1


def _port(ground: Ground, served: ServedModel, number: int, replicas: int) -> int:
    if replicas == 1:
        return ground.engine_port(served)
    return REPLICA_PORT + 100 * ground.launched.index(served) + number


class _Seat(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    address: str
    port: int
    first: int


def _engine(ground: Ground, served: ServedModel, seat: _Seat) -> Engine:
    order = ground.order
    image = images.image_of(order, served)
    path = f"{MODELS_PATH}/{served.key}" + ("/model.gguf" if served.entry.engine.kind == "llamacpp" else "")
    serving = arguments.serving_of(order, served, model_path=path, in_container=True)
    made = arguments.command(msgspec.structs.replace(serving, port=seat.port))
    stated = getattr(served.entry.engine, "ready_timeout_s", None)
    return Engine(
        name=seat.name,
        address=seat.address,
        served=served,
        command=made,
        image=order.images.reference(image.name),
        user=image.user or USER,
        device=devices.device_of(order, served) if served.option is not None else None,
        first=seat.first,
        ready_s=float(stated or max(START_S, 2 * served.load_s)),
    )


def endpoints(ground: Ground, contained: Contained) -> dict[str, str]:
    """Where the gateway finds each launched model: its container, or the front where there are several."""
    balanced = {balance.key: f"http://{FRONT_ADDRESS}:{balance.port}" for balance in contained.balances}
    alone = {each.served.key: f"http://{each.address}:{each.command.port}" for each in contained.engines}
    return {
        served.key: {**alone, **balanced}[served.key]
        + ground.order.facts.engines[served.entry.engine.kind].api_path
        for served in ground.launched
    }


def compose_files(ground: Ground, contained: Contained) -> tuple[File, ...]:
    """The compose file, the recipe of Sextant's image, and a unit for each service."""
    services = {
        "gateway": _gateway(ground, contained),
        "front": _front(ground),
        **{engine.name: _service(engine) for engine in contained.engines},
    }
    whole: dict[str, Any] = {
        "name": ground.order.name,
        "services": services,
        "networks": {
            "inside": {"internal": True, "ipam": {"config": [{"subnet": SUBNET}]}},
            "outside": {},
        },
    }
    configs = {
        _config(engine, path): {"content": content.decode()}
        for engine in contained.engines
        for path, content in engine.command.files.items()
    }
    if configs:
        whole["configs"] = configs
    if contained.variables:
        whole["secrets"] = {"engine-key": {"file": ENGINE_KEY}}
    base = ground.order.images.reference("python")
    return (
        yaml_file(FILE, whole, comment=_SAID),
        script_file("container.sh", _SCRIPT),
        text_file("image/Dockerfile", _DOCKERFILE.format(base=base, version=ground.order.version)),
        *(_unit(ground, name, service) for name, service in services.items()),
    )


def unit_of(service: str) -> str:
    """The unit that starts a service."""
    return {"gateway": "sextant.service", "front": FRONT_UNIT}.get(service, f"sextant-{service}.service")


def kit_of(ground: Ground, contained: Contained) -> Kit:
    """What an air-gapped server must be brought: every image but the one that it builds, and wheels for the
    Python of that one."""
    known, program = ground.order.images, ground.order.deployment.spec.delivery.front
    names = {known.reference("python"), known.reference(program)}
    return Kit(
        images=tuple(sorted(names | {engine.image for engine in contained.engines})),
        python=known.known["python"].tag.partition("-")[0],
        platforms=tuple(f"manylinux{version}_{MACHINE}" for version in GLIBC),
    )


def needs(ground: Ground, contained: Contained) -> tuple[Need, ...]:
    """What must be there to run containers."""
    found = [
        Need("program", "docker, 24 or newer", "runs the containers", "docker version"),
        Need("program", "docker compose, 2.23.1 or newer", "starts them", "docker compose version"),
        Need(
            "network",
            f"{SUBNET} is free on this server",
            "is the containers' own network",
            "ip route",
        ),
    ]
    for engine in contained.engines:
        folder = f"{WEIGHTS}/{engine.served.key}"
        found.append(Need("storage", folder, f"weights of {engine.served.entry.name}", f"ls {folder}"))
    if any(engine.device is not None and engine.device.vendor == "nvidia" for engine in contained.engines):
        check = "docker run --rm --gpus all ubuntu:24.04 nvidia-smi"
        found.append(Need("program", "NVIDIA Container Toolkit", "gives containers their GPUs", check))
    return tuple(dict.fromkeys(found))


def _walls(image: str, user: str, memory_bytes: int, networks: Mapping[str, Any]) -> dict[str, Any]:
    """What all containers have in common."""
    return {
        "image": image,
        "user": user,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "no",
        "init": True,
        "stop_grace_period": "55s",
        "mem_limit": f"{-(-memory_bytes // (1 << 20))}m",
        "pids_limit": 4096,
        "cpu_shares": 4096,
        "blkio_config": {"weight": IO_WEIGHT},
        "ulimits": {"nofile": {"soft": 65536, "hard": 65536}},
        "networks": dict(networks),
        "logging": {"driver": "local", "options": {"max-size": "20m", "max-file": "3"}},
    }


def _health(test: Sequence[str], start_s: float) -> dict[str, Any]:
    return {"test": list(test), "interval": "10s", "timeout": "5s", "start_period": f"{int(start_s)}s"}


def _gateway(ground: Ground, contained: Contained) -> dict[str, Any]:
    weights_bytes = sum(served.weights_bytes for served in ground.embedded)
    probe = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{ground.port}/ready', timeout=4)"
    volumes = [f"{BUNDLE}/sextant.yaml:{BUNDLE}/sextant.yaml:ro", f"{STATE}:{STATE}"]
    volumes += [f"{MODELS}:{MODELS}:ro"] if models_of_kit(ground) else []
    published = [f"127.0.0.1:{port}:{port}" for port in (ground.port, ground.control_port)]
    body = {
        **_walls(
            "${SEXTANT_IMAGE:?run the scripts of this bundle}",
            "${SEXTANT_USER:?}",
            3 * GIB + 3 * weights_bytes,
            {"inside": {"ipv4_address": GATEWAY_ADDRESS}, "outside": {}},
        ),
        "pull_policy": "never",
        # It listens on all addresses of a network that only the front and the engines share.
        "command": ["sextant", "up", f"{BUNDLE}/sextant.yaml", "--state", STATE, "--insecure"],
        "environment": {"HOME": "/tmp"},  # noqa: S108 - in the container
        "env_file": [{"path": SECRETS, "required": False}],
        "tmpfs": ["/tmp"],  # noqa: S108 - in the container
        "volumes": volumes,
        "ports": published,
        "healthcheck": _health(("CMD", "python3", "-c", probe), contained.ready_s + 120),
    }
    if contained.variables:
        body["secrets"] = ["engine-key"]
    return body


def _front(ground: Ground) -> dict[str, Any]:
    program = ground.order.deployment.spec.delivery.front
    host = f"{ground.public_host}:" if ground.public_host else ""
    start = {
        "nginx": ["nginx", "-c", f"{ETC}/nginx.conf", "-e", "stderr"],
        "haproxy": ["haproxy", "-W", "-f", f"{ETC}/haproxy.cfg"],
    }[program]
    config = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[program]
    networks = {"inside": {"ipv4_address": FRONT_ADDRESS}, "outside": {}}
    return {
        **_walls(ground.order.images.reference(program), "${FRONT_USER:?}", GIB, networks),
        "entrypoint": start[:1],
        "command": start[1:],
        "sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
        "tmpfs": ["/tmp", "/run/sextant:mode=1777"],  # noqa: S108 - in the container
        "volumes": [f"{ETC}/{config}:{ETC}/{config}:ro", f"{ETC}/tls:{ETC}/tls:ro"],
        "ports": [f"{host}{ground.public_port}:{ground.public_port}"],
        "healthcheck": _health(("CMD-SHELL", f"nc -z 127.0.0.1 {ground.public_port}"), 10),
    }


def _service(engine: Engine) -> dict[str, Any]:
    made, device, option = engine.command, engine.device, engine.served.option
    memory_bytes = int(engine.served.weights_bytes * 1.5) + 8 * GIB
    if option is not None:
        memory_bytes = max(memory_bytes, made.per_node * 32 * GIB)
    environment = {"HOME": "/tmp", **(device.env if device is not None else {}), **made.env}  # noqa: S108
    ask = f"http://127.0.0.1:{made.port}{made.health_path}"
    python = f"import urllib.request as u; u.urlopen('{ask}', timeout=4)"
    probe = ("CMD", "curl", "-fsS", ask) if engine.served.entry.engine.kind == "llamacpp" else (
        "CMD", "python3", "-c", python,
    )  # fmt: skip
    body = {
        **_walls(
            engine.image,
            f"{engine.user}:{engine.user}",
            memory_bytes,
            {"inside": {"ipv4_address": engine.address}},
        ),
        "environment": environment,
        "shm_size": f"{max(1, made.per_node) * 8}g",
        "tmpfs": ["/tmp:exec"],  # noqa: S108 - in the container; engines compile kernels there
        "volumes": [f"{WEIGHTS}:{MODELS_PATH}:ro"],
        "healthcheck": _health(probe, engine.ready_s),
    }
    if made.argv:
        body["entrypoint"], body["command"] = list(made.argv[:1]), list(made.argv[1:])
    if made.secret_env:
        # The gateway's secret is the same key: without it nothing starts, so this need not insist.
        body["env_file"] = [{"path": f"{ENGINE_KEY}.env", "required": False}]
    if made.files:
        body["configs"] = [{"source": _config(engine, path), "target": path} for path in made.files]
    if device is not None and device.visible and not device.compose:
        environment[device.visible] = ",".join(_numbers(engine))
    return {**body, **_accelerators(engine)}


def _numbers(engine: Engine) -> list[str]:
    return [str(number) for number in range(engine.first, engine.first + engine.command.per_node)]


def _accelerators(engine: Engine) -> dict[str, Any]:
    """Its own accelerators by number, since a count would give every container the same ones."""
    device = engine.device
    if device is None:
        return {}
    if device.compose:
        asked = {"driver": device.compose, "device_ids": _numbers(engine), "capabilities": ["gpu"]}
        return {"deploy": {"resources": {"reservations": {"devices": [asked]}}}}
    paths = [path.partition("*")[0].rstrip("/") for path in device.paths]
    found: dict[str, Any] = {"devices": [f"{path}:{path}" for path in paths]}
    if device.groups:
        found["group_add"] = list(device.groups)
    return found


def _config(engine: Engine, path: str) -> str:
    return f"{engine.name}-{path.strip('/').replace('/', '-')}"


def _unit(ground: Ground, name: str, service: Mapping[str, Any]) -> File:
    """A unit for one service. Its text changes with the service, so that what changed is started again."""
    digest = hashlib.sha256(yaml_text(service).encode()).hexdigest()[:16]
    return unit_file(
        unit_of(name),
        (
            "Unit",
            (
                ("Description", f"Sextant {ground.order.name}: the container {name}"),
                ("Documentation", f"file://{BUNDLE}/README.md"),
                ("Wants", "network-online.target docker.service"),
                ("After", "network-online.target docker.service"),
                ("PartOf", "sextant.target"),
                ("StartLimitIntervalSec", "0"),
                ("X-Sextant-Service", digest),
            ),
        ),
        (
            "Service",
            (
                ("Type", "exec"),
                ("EnvironmentFile", ENV),
                ("Environment", "DOCKER_CONFIG=/run/sextant-docker"),
                ("ExecStart", f"{BUNDLE}/container.sh up {name}"),
                ("ExecStop", f"{BUNDLE}/container.sh stop {name}"),
                ("TimeoutStartSec", "120"),
                ("TimeoutStopSec", "70"),
                ("Restart", "always"),
                ("RestartSec", "2"),
                ("Slice", "sextant-serving.slice"),
                ("MemoryMax", "512M"),
                *HARDENED,
                *NO_DEVICES,
                ("RuntimeDirectory", "sextant-docker"),
                ("RuntimeDirectoryPreserve", "yes"),
                ("CapabilityBoundingSet", ""),
                ("IPAddressDeny", "any"),
            ),
        ),
        INSTALL,
    )


NOTE = (
    "No container of this bundle was started by whoever made this version: Docker Compose reads the file, "
    "and the scripts were run with a stand-in for docker. Compose has no word for a disk's latency target: "
    "`blkio_config` weighs I/O, which counts where the disk's scheduler is BFQ; `orchestration: systemd` has "
    "one. It makes no backups by a timer either."
)
_SAID = (
    "Started service by service by the units of this bundle, which give it the image that was built and the\n"
    "users' numbers (/etc/sextant/compose.env). Weights of I/O count where the disk's scheduler is BFQ."
)
_SCRIPT = r"""
# container.sh up|stop SERVICE: run by the units.
here=$(cd "$(dirname "$0")" && pwd)
service=$2
case $1 in
    up) set -- up --no-deps --no-log-prefix --abort-on-container-exit "$service" ;;
    stop) set -- stop "$service" ;;
    *) echo "usage: container.sh up|stop SERVICE" >&2 && exit 64 ;;
esac
exec docker compose --file "$here/compose.yaml" "$@"
"""
_DOCKERFILE = """\
# Sextant {version}; the context is the folder of the wheels. Without any, what it needs comes from the index.
FROM {base}
ARG PIP_NO_INDEX=
ARG WHAT=sextant-llm=={version}
COPY . /wheels/
RUN python3 -m venv /srv/sextant \\
 && /srv/sextant/bin/pip install --no-cache-dir --no-compile --find-links /wheels "$WHAT" \\
 && /srv/sextant/bin/pip uninstall --yes pip \\
 && rm -rf /wheels
ENV PATH=/srv/sextant/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 65532:65532
CMD ["sextant", "--help"]
"""
