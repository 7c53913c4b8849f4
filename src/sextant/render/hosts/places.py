"""Where a bundle puts things on a server, and what its scripts, units and front must agree on.

`Ground` is made once of an order and handed to every builder of this package. Neighbours: `units.py`,
`front.py`, `scripts.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from sextant.spec.bundle import Need, Step
from sextant.spec.document import Spec
from sextant.spec.engine_sections import EmbeddedEngine, LaunchedEngine
from sextant.spec.references import secret_references
from sextant.spec.rendering import Order, ServedModel

OPT = "/opt/sextant"
CURRENT = f"{OPT}/current"
"""The release in use: a link into `/opt/sextant/releases`."""
BUNDLE = f"{CURRENT}/bundle"
VENV = f"{CURRENT}/venv"
MODELS = f"{CURRENT}/models"
ETC = "/etc/sextant"
STATE = "/var/lib/sextant"
CERTIFICATE = f"{ETC}/tls/server.pem"
CERTIFICATE_KEY = f"{ETC}/tls/server.key"
CLIENT_CA = f"{ETC}/tls/clients.pem"
CENTRE_CA = f"{ETC}/tls/centre.pem"
"""Certificate authorities of the centre that a box belongs to."""
METRICS_CA = f"{ETC}/tls/metrics.pem"
"""Certificate authorities of what takes the box's metrics."""
METRICS_TOKEN = f"{ETC}/metrics-token"
"""With it the box's admin API shows its metrics; made at install."""
SECRETS = f"{ETC}/secrets.env"
"""Variables that `env:` references of the document name; mode 0600."""
ENGINE_KEY = f"{ETC}/engine-key"

NETWORK = "172.31.254"
"""First numbers of the addresses of containers that share a server."""
FRONT_ADDRESS, GATEWAY_ADDRESS = f"{NETWORK}.2", f"{NETWORK}.3"

PUBLIC_PORT = 443
PORT_SHIFT = 10_000
"""The gateway moves so far from a port that the front takes."""
ENGINE_PORT = 9100
"""Of the first engine that is a unit of its own; the next ones follow."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What the builders share."""

    order: Order
    public_host: str
    """Where callers arrive; empty: all addresses."""
    public_port: int
    port: int
    """Of the gateway on 127.0.0.1."""
    control_port: int
    has_front: bool
    embedded: tuple[ServedModel, ...]
    """Models that run inside `sextant up`."""
    launched: tuple[ServedModel, ...]
    """Models whose engine is a unit of its own."""
    contained: bool = False
    """Whether gateway, front and engines are containers with addresses of their own."""
    references: tuple[str, ...]
    """Secret references of the document."""

    @property
    def gateway_host(self) -> str:
        """Where the front finds the gateway."""
        return GATEWAY_ADDRESS if self.contained else "127.0.0.1"

    @property
    def front_host(self) -> str:
        """Where the gateway finds the front, which balances several engines of one model."""
        return FRONT_ADDRESS if self.contained else "127.0.0.1"

    @property
    def url(self) -> str:
        """Where the scripts ask the gateway."""
        scheme = "http" if self.has_front or self.order.deployment.spec.gateway.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    def engine_port(self, served: ServedModel) -> int:
        """The port of a launched engine on its server."""
        return ENGINE_PORT + self.launched.index(served)


def ground_of(order: Order, *, has_front: bool, contained: bool = False) -> Ground:
    """The agreement of that order."""
    spec = order.deployment.spec
    gateway = spec.gateway
    local = gateway.host in LOOPBACK
    moved = has_front and not local
    port = gateway.port
    if moved:
        port = port + PORT_SHIFT if port + PORT_SHIFT < 65_536 else port - PORT_SHIFT
    return Ground(
        order=order,
        public_host="" if local or gateway.host in ("0.0.0.0", "::") else gateway.host,
        public_port=gateway.port if moved or not has_front else PUBLIC_PORT,
        port=port,
        control_port=spec.control.port,
        has_front=has_front,
        contained=contained,
        embedded=tuple(one for one in order.served if isinstance(one.entry.engine, EmbeddedEngine)),
        launched=tuple(one for one in order.served if isinstance(one.entry.engine, LaunchedEngine)),
        references=_references(spec),
    )


def _references(spec: Spec) -> tuple[str, ...]:
    """Without the PIN of a token that signs releases elsewhere: it must never come to a server."""
    hsm = spec.security.hsm
    away = hsm.pin if hsm is not None and not hsm.serves else None
    return tuple(each for each in secret_references(spec) if each != away)


def release_of(order: Order, contents: Mapping[str, bytes]) -> str:
    """A name for what is installed: the version, and a hash of what the bundle holds."""
    digest = hashlib.sha256()
    for path in sorted(contents):
        digest.update(f"{path}\0{len(contents[path])}\0".encode() + contents[path])
    return f"{order.version}-{digest.hexdigest()[:10]}"


def secret_variables(ground: Ground) -> tuple[str, ...]:
    """Names of the variables that the document refers to."""
    return tuple(each.removeprefix("env:") for each in ground.references if each.startswith("env:"))


def secret_files(ground: Ground) -> tuple[str, ...]:
    """Paths of the files that the document refers to, below the folder that the installation looks after."""
    named = (each.removeprefix("file:").removeprefix("sealed:") for each in ground.references)
    return tuple(each for each in named if each.startswith(f"{ETC}/"))


def secret_steps(ground: Ground, *further: str) -> tuple[Step, ...]:
    """How secrets come to the server before anything is installed there. `further`: files with variables that
    others than the gateway read."""
    variables = secret_variables(ground)
    files = tuple(path for path in secret_files(ground) if f"file:{path}" in ground.references)
    listed = [*([SECRETS] if variables else []), *further]
    if not listed and not files:
        return ()
    typed = [f"sudo install -d -m 0755 {ETC}"]
    for path in (*listed, *files):
        typed += [f"sudo install -m 0600 /dev/null {path}", f"sudoedit {path}"]
    told = [
        f"`{path}`: a line NAME=value each ({', '.join(variables)})" for path in listed if path == SECRETS
    ]
    told += [f"`{path}`: a line NAME=value each" for path in further]
    told += [f"`{path}`: the value alone" for path in files]
    return (
        Step(
            "Put the secrets in place",
            tuple(typed),
            f"They stand in no file of this bundle. {'; '.join(told)}. The installation gives each to who "
            "reads it.",
        ),
    )


def _owner(path: str) -> str:
    if path.startswith(f"{ETC}/"):
        return "mode 0600; the installation gives it to the user sextant"
    return "owned by the user sextant, mode 0600"


def secret_needs(ground: Ground) -> tuple[Need, ...]:
    """What the document refers to and must be there before the start."""
    found = []
    for reference in ground.references:
        kind, _, name = reference.partition(":")
        if kind == "env":
            found.append(
                Need(
                    "secret",
                    f"{name} in {SECRETS}",
                    "the document names it",
                    f"sudo grep -c ^{name}= {SECRETS}",
                )
            )
        else:
            found.append(Need("secret", name, f"the document names it; {_owner(name)}", f"sudo ls -l {name}"))
    return tuple(found)


def identity_needs(ground: Ground) -> tuple[Need, ...]:
    """Who tells the gateway its SPIFFE id, where engines elsewhere want to see one."""
    spiffe = ground.order.deployment.spec.security.spiffe
    if spiffe is None:
        return ()
    socket = spiffe.workload_api.removeprefix("unix://")
    why = f"issues the gateway's id in the trust domain {spiffe.trust_domain} to the user sextant"
    return (Need("program", f"a SPIRE agent at {socket}", why, f"test -S {socket}"),)
