"""The metrics agent of a box: reads the box's own metrics, and sends them to the centre when there is a line.

VictoriaMetrics' agent, Debian's package: what is not sent waits in a queue on disk, which a restart leaves
there. Prometheus' own agent keeps its log too, but begins anew at each start, so what an outage had left
unsent is lost with the next one (prometheus/prometheus#8809). Neighbours: `units.py`; `edge.py`, which takes
these in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sextant.render.dumping import yaml_file
from sextant.render.hosts.places import BUNDLE, ENGINE_KEY, METRICS_CA, METRICS_TOKEN, Ground
from sextant.render.hosts.units import (
    GIB,
    HARDENED,
    INSTALL,
    NO_DEVICES,
    NO_RIGHTS,
    EngineUnit,
    Line,
    Memory,
    quoted,
    unit_file,
)
from sextant.spec.bundle import File, Need, Step
from sextant.spec.centre_sections import CentreMetrics

UNIT = "sextant-metrics.service"
PROGRAM = "/usr/bin/vmagent"
CONFIG = "metrics/prometheus.yml"
QUEUE = "/var/lib/sextant-metrics/queue"
PORT = 8429
"""Of the agent, on the loopback: its own metrics."""
INTERVAL_S = 15
QUEUE_BYTES = GIB
"""At most on the disk; when it is full the oldest chunk of 512 MiB goes first."""
SAMPLES_MOST = 50_000
"""Of one scrape of one target; above it the target is not read."""
MIB = 1 << 20
MEMORY = Memory(192 * MIB, 256 * MIB)
OWN = "vmagent_remotewrite_.+|vm_persistentqueue_.+|vm_promscrape_scrapes_.+|process_resident_memory_bytes"
"""What of the agent's own metrics is sent: whether it keeps up."""


def wanted(ground: Ground) -> CentreMetrics | None:
    """Where the metrics of this box go; None where they stay."""
    centre = ground.order.deployment.spec.centre
    return None if centre is None else centre.metrics


def files(ground: Ground, engines: Sequence[EngineUnit]) -> tuple[File, ...]:
    """What is read how often, and the unit; none where metrics stay."""
    metrics = wanted(ground)
    if metrics is None:
        return ()
    return _config(ground, engines), _unit(ground, metrics, engines)


def _config(ground: Ground, engines: Sequence[EngineUnit]) -> File:
    spec = ground.order.deployment.spec
    own = {"source_labels": ["__name__"], "regex": OWN, "action": "keep"}
    control = _job("control", ground.control_port, tls=spec.control.tls is not None)
    jobs = (
        _job("gateway", ground.port, tls=spec.gateway.tls is not None),
        {**control, "authorization": _shown("control")},
        *(_engine_job(ground, unit) for unit in engines if unit.command.metrics_path),
        {**_job("metrics-agent", PORT, tls=False), "metric_relabel_configs": [own]},
    )
    labels = {"site": spec.centre.site} if spec.centre else {}
    times = {"scrape_interval": f"{INTERVAL_S}s", "scrape_timeout": "10s"}
    return yaml_file(CONFIG, {"global": {**times, "external_labels": labels}, "scrape_configs": list(jobs)})


def _job(name: str, port: int, *, tls: bool) -> dict[str, Any]:
    """A process on this box. Its certificate names the box as callers know it, not the loopback."""
    secured = {"scheme": "https", "tls_config": {"insecure_skip_verify": True}} if tls else {}
    return {
        "job_name": name,
        **secured,
        "sample_limit": SAMPLES_MOST,
        "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
    }


def _engine_job(ground: Ground, unit: EngineUnit) -> dict[str, Any]:
    job = _job(f"engine-{unit.key}", ground.engine_port(unit.served), tls=False)
    job["metrics_path"] = unit.command.metrics_path
    return {**job, "authorization": _shown("engine")} if _needs_key(ground, unit) else job


def _needs_key(ground: Ground, unit: EngineUnit) -> bool:
    data = ground.order.facts.engines[unit.served.entry.engine.kind]
    return bool(unit.command.metrics_path and data.metrics_need_key and unit.command.secret_env)


def _shown(credential: str) -> Mapping[str, str]:
    return {"type": "Bearer", "credentials_file": f"%{{CREDENTIALS_DIRECTORY}}/{credential}"}


def _unit(ground: Ground, metrics: CentreMetrics, engines: Sequence[EngineUnit]) -> File:
    held = [("LoadCredential", f"control:{METRICS_TOKEN}")]
    words = [
        PROGRAM,
        f"-promscrape.config={BUNDLE}/{CONFIG}",
        "-promscrape.config.strictParse",
        "-promscrape.configCheckInterval=30s",  # an upgrade may bring another one below the same unit
        f"-remoteWrite.url={metrics.url}",
        f"-remoteWrite.tmpDataPath={QUEUE}",
        f"-remoteWrite.maxDiskUsagePerURL={QUEUE_BYTES}",
        "-remoteWrite.queues=1",  # samples leave in the order of their times
        f"-httpListenAddr=127.0.0.1:{PORT}",
        "-enableTCP6",
        f"-memory.allowedBytes={64 * MIB}",
        "-loggerLevel=WARN",
    ]
    command = " ".join(quoted(word) for word in words)
    if metrics.credential is not None:
        held.append(("LoadCredential", f"centre:{metrics.credential.removeprefix('file:')}"))
        command += " -remoteWrite.bearerTokenFile=%d/centre"
    if metrics.ca_file is not None:
        held.append(("LoadCredential", f"authorities:{METRICS_CA}"))
        command += " -remoteWrite.tlsCAFile=%d/authorities"
    if any(_needs_key(ground, unit) for unit in engines):
        held.append(("LoadCredential", f"engine:{ENGINE_KEY}"))
    return unit_file(
        UNIT,
        (
            "Unit",
            (
                ("Description", f"Sextant {ground.order.name}: metrics to the centre"),
                ("Documentation", f"file://{BUNDLE}/README.md"),
                ("After", "network.target sextant.service"),
                ("PartOf", "sextant.target"),
                ("StartLimitIntervalSec", "0"),
            ),
        ),
        ("Service", (*_process(command), *held, *_walls())),
        INSTALL,
    )


def _process(command: str) -> tuple[Line, ...]:
    return (
        ("Type", "exec"),
        ("DynamicUser", "yes"),
        ("ExecStart", command),
        ("StateDirectory", "sextant-metrics"),
        ("StateDirectoryMode", "0700"),
        ("TimeoutStopSec", "30"),
        ("Restart", "always"),
        ("RestartSec", "5"),
        ("Slice", "sextant-background.slice"),
        ("LimitNOFILE", "4096"),
        *MEMORY.lines(),
    )


def _walls() -> tuple[Line, ...]:
    return (*HARDENED, *NO_DEVICES, *NO_RIGHTS, ("MemoryDenyWriteExecute", "yes"))


def needs(ground: Ground) -> tuple[Need, ...]:
    """The agent's program, and the authorities of where it sends."""
    metrics = wanted(ground)
    if metrics is None:
        return ()
    found = [
        Need(
            "program",
            PROGRAM,
            "keeps metrics and sends them; of the package victoria-metrics, whose own service is not needed "
            "(`sudo systemctl disable --now victoria-metrics`)",
            f"{PROGRAM} -version",
        ),
        Need(
            "account",
            metrics.url,
            "takes Prometheus' remote write; samples older than an hour too (`out_of_order_time_window` of a "
            "Prometheus)",
        ),
    ]
    if metrics.ca_file is not None:
        found.append(
            Need(
                "secret", METRICS_CA, f"certificate authorities of {metrics.url}", f"sudo ls -l {METRICS_CA}"
            )
        )
    return tuple(found)


def steps(ground: Ground) -> tuple[Step, ...]:
    """How to see what waits."""
    if wanted(ground) is None:
        return ()
    return (
        Step(
            "See which metrics wait for the centre",
            (f"curl -s http://127.0.0.1:{PORT}/metrics | grep pending",),
            "Bytes that are not sent yet; 0 with a line.",
        ),
    )
