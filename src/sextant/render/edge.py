"""The mode `edge`: one box that works by itself, whatever becomes of its line.

A single folder, signed with ed25519: installed, upgraded and rolled back without a network, watched by a
watchdog, and measured at install. Pure; the parts are in `hosts/`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sextant.base.errors import Unsupported
from sextant.render.dumping import text_file
from sextant.render.hosts import documents, engines, hsm, kit, metrics_agent, places, steps, units, watchdog
from sextant.render.hosts.places import Ground
from sextant.render.hosts.scripts import Settings, script_files
from sextant.spec.bundle import Bundle, File, Need, Step
from sextant.spec.rendering import Order
from sextant.spec.stores import SQLITE

ALONE = (
    "The document has no spec.centre: usage stays in the box's own ledger (`sextant usage`), and nobody "
    "answers when its engine cannot."
)
FOLLOWS = (
    "Usage waits in the box's ledger until the centre has confirmed it, for as long as the disk has room: "
    "about 400 bytes a request, so 1 GiB for 2.6 million. `sextant status` shows what waits."
)
METRICS_STAY = (
    "spec.centre.metrics is not set: scrape the box at its admin API's /metrics while its line is there."
)
METRICS_FOLLOW = (
    f"Metrics wait in {metrics_agent.QUEUE}, at most {metrics_agent.QUEUE_BYTES >> 20} MiB; a queue that is "
    "full gives up its oldest 512 MiB. An orderly stop loses none; a kill takes the last seconds with it; "
    "what a cut of the power takes was not tried."
)
NO_FALLBACK = "spec.centre has no fallback: nobody answers when the engine of this box cannot."
READY_S = 120
"""Longest start of embedded engines."""
NOTES = (
    "These units have not been run under systemd as process 1 by whoever made this version; systemd's own "
    "checks pass on them, and their commands were run with their environment and limits.",
    "The box's own hardware watchdog is systemd's: RuntimeWatchdogSec= in /etc/systemd/system.conf.",
)


def bundle(order: Order) -> Bundle:
    """The bundle of one box. Raises Unsupported for what it cannot do, with the reason."""
    store = order.deployment.spec.store
    if store.url != SQLITE:
        raise Unsupported(
            f"{order.name}: an edge box keeps its state itself; spec.store is {store.url}, expected "
            f"`{SQLITE}`",
            field="spec.store",
        )
    ground = places.ground_of(order, has_front=False)
    placed = engines.place_engines(ground, ())
    if placed.servers > 1 or placed.balances:
        raise Unsupported(
            f"{order.name}: its plan takes {placed.servers} servers or several replicas; an edge box is one "
            f"server with one replica of each model: ask for less, or use the mode on-prem",
            field="spec.mode",
        )
    files = (
        *_files(ground, placed),
        *placed.files,
        *metrics_agent.files(ground, [unit for _, unit in placed.units]),
    )
    settings = _settings(ground, placed, files)
    return Bundle(
        name=order.name,
        mode=order.mode,
        files=tuple(sorted((*files, *script_files(settings)), key=lambda file: file.path)),
        needs=_needs(ground),
        install=_install(ground, settings),
        verify=(
            *steps.VERIFY,
            Step("See how fast it is here", (f"sudo cat {places.STATE}/latency.json",)),
            *_centre_steps(ground),
        ),
        upgrade=steps.upgrade(f"sudo {places.BUNDLE}/upgrade.sh /media/usb/{order.name}"),
        rollback=steps.ROLLBACK,
        uninstall=steps.UNINSTALL,
        diagram=_diagram(ground, placed),
        notes=(*_centre_notes(ground), *NOTES),
    )


def _centre_notes(ground: Ground) -> tuple[str, ...]:
    centre = ground.order.deployment.spec.centre
    if centre is None:
        return (ALONE, METRICS_STAY)
    fallback = () if centre.fallback is not None else (NO_FALLBACK,)
    return (FOLLOWS, *fallback, METRICS_STAY if centre.metrics is None else METRICS_FOLLOW)


def _centre_steps(ground: Ground) -> tuple[Step, ...]:
    """How to see that the line to the centre works."""
    centre = ground.order.deployment.spec.centre
    if centre is None:
        return ()
    return (
        Step(
            "See what waits for the centre",
            (f"sudo -u sextant {places.VENV}/bin/sextant status --state {places.STATE}",),
            f"The line `Centre` says whether {centre.url} has everything; at the centre, `sextant site list` "
            f"shows what came from {centre.site}.",
        ),
        *metrics_agent.steps(ground),
    )


def _files(ground: Ground, placed: engines.Placed) -> tuple[File, ...]:
    ready_s = int(placed.ready_s) + READY_S
    names = tuple(unit.name for _, unit in placed.units)
    started = ("sextant.target", *names, "sextant.service", watchdog.TIMER, *_metrics_unit(ground))
    return (
        *units.slices(),
        units.target(ground),
        units.serving_unit(ground, after=names, ready_s=ready_s),
        *(units.engine_unit(ground, unit) for _, unit in placed.units),
        *watchdog.watchdog_files(ground, ready_s=ready_s),
        *kit.kit_files(ground, kit.Kit()),
        text_file("sextant.yaml", documents.served_document(ground)),
        text_file("units.list", "\n".join(f"all {name}" for name in started)),
    )


def _metrics_unit(ground: Ground) -> tuple[str, ...]:
    return () if metrics_agent.wanted(ground) is None else (metrics_agent.UNIT,)


def _settings(ground: Ground, placed: engines.Placed, files: Sequence[File]) -> Settings:
    order = ground.order
    return Settings(
        name=order.name,
        version=order.version,
        release=places.release_of(order, {file.path: file.content for file in files}),
        url=ground.url,
        ready_s=int(placed.ready_s) + READY_S,
        signed=True,
        tls=order.deployment.spec.gateway.tls is not None,
        measure=bool(ground.embedded or ground.launched),
        engine_variables=placed.variables,
        models=documents.models_of_kit(ground),
        secret_variables=places.secret_variables(ground),
        secret_files=places.secret_files(ground),
        weights_folder=engines.WEIGHTS if ground.launched else "",
        hsm=hsm.used_here(ground),
        hsm_group=hsm.group(ground),
        users=("sextant", *(("sextant-engine",) if placed.units else ())),
        programs=("openssl", "sha256sum", *(("vmagent",) if metrics_agent.wanted(ground) else ())),
    )


def _needs(ground: Ground) -> tuple[Need, ...]:
    return (
        Need("program", "python3", "runs Sextant; 3.11 or newer, with venv", "python3 -m venv --help"),
        Need("program", "openssl", "verifies signatures; 3.0 or newer", "openssl version"),
        Need("secret", "an ed25519 key pair", "`sign.sh` signs with it; only release.pub goes to the box"),
        *documents.tls_needs(ground),
        *hsm.needs(ground),
        *places.secret_needs(ground),
        *places.identity_needs(ground),
        *documents.centre_needs(ground),
        *metrics_agent.needs(ground),
        *engines.needs(ground),
        *documents.model_needs(ground),
    )


def _install(ground: Ground, settings: Settings) -> tuple[Step, ...]:
    tls = " --cert ../server.pem --key ../server.key" if settings.tls else ""
    return (
        *kit.offline_steps(signed=True, hsm=hsm.hsm_of(ground)),
        *places.secret_steps(ground),
        *hsm.install_steps(ground),
        Step(
            "On the box, before anything in this folder is run",
            (
                "openssl pkeyutl -verify -pubin -inkey ../release.pub -rawin -in SHA256SUMS "
                "-sigfile SHA256SUMS.sig",
                "sha256sum --check --quiet SHA256SUMS",
            ),
            "release.pub comes by another way than the folder, and lies beside it. Later upgrades are "
            "verified by the installed scripts.",
        ),
        Step(
            "Install, start and measure",
            (f"sudo ./install-offline.sh --trust ../release.pub{tls}",),
            "It shows the first API key and the admin credential once; keep them. It ends with the box's own "
            "99th percentile against 35 ms (control) and 50 ms.",
        ),
    )


def _diagram(ground: Ground, placed: engines.Placed) -> str:
    host = ground.order.deployment.spec.gateway.host
    lines = [
        "flowchart LR",
        f'    callers["callers"] -->|"{host}:{ground.port}"| serving["sextant.service"]',
        f'    serving --> state[("{places.STATE}, SQLite")]',
        '    timer["sextant-watchdog.timer"] -->|"/health"| serving',
    ]
    centre = ground.order.deployment.spec.centre
    if centre is not None:
        what = "usage, when there is a line" if centre.fallback is None else "usage; requests by policy"
        lines.append(f'    serving -.->|"{what}"| centre["{centre.url}"]')
        if centre.metrics is not None:
            lines.append(f'    serving --> metrics["{metrics_agent.UNIT}"]')
            lines.append(
                f'    metrics -.->|"metrics, when there is a line"| receiver["{centre.metrics.url}"]'
            )
    lines += [f'    serving --> engine-{unit.key}["{unit.name}"]' for _, unit in placed.units]
    return "\n".join(lines)
