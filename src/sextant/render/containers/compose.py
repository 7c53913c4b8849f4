"""Everything on one machine, for developers and for pipelines that try an image: a compose file.

The gateway keeps its books in SQLite here, unless the document names other stores. Engines that span several
machines are left out. Nothing listens but on this machine's own address.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sextant.render.containers.dockerfiles import MLFLOW, SEXTANT, USER
from sextant.render.containers.metrics import grafana_data
from sextant.render.dumping import text_file, yaml_file
from sextant.render.kubernetes.cluster import MODELS_PATH, Cluster, Workload
from sextant.render.own_document import Place, serving_document
from sextant.spec.bundle import File
from sextant.spec.deploy_sections import Delivery
from sextant.spec.rendering import Order

FOLDER = "compose"
PORT, CONTROL_PORT = 8000, 8001
ENGINE_KEYS = "engine-key"
_PLACE = "/etc/sextant"

_PROMETHEUS = """\
global: {scrape_interval: 15s, evaluation_interval: 15s}
rule_files: [alerts.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ["alertmanager:9093"]}]}]}
scrape_configs:
- job_name: gateway
  static_configs: [{targets: ["gateway:8000"], labels: {service: gateway}}]
"""
_ALERTS = """\
groups:
- name: sextant
  rules:
  - alert: SextantGatewayAway
    expr: absent(sextant_gateway_ready) or sum(sextant_gateway_ready) == 0
    for: 2m
    labels: {severity: critical}
    annotations: {summary: "The gateway cannot serve."}
  - alert: SextantErrors
    expr: sum(rate(sextant_gateway_errors_total[5m])) > 0.05 * sum(rate(sextant_gateway_requests_total[5m]))
    for: 5m
    labels: {severity: warning}
    annotations: {summary: "More than one request in twenty ends in an error."}
  - alert: SextantUsageNotDurable
    expr: sum(sextant_ledger_pending_rows) > 1000
    for: 5m
    labels: {severity: critical}
    annotations: {summary: "Usage waits to be written: is the disk full?"}
"""
_ALERTMANAGER = """\
# Alerts are shown at http://127.0.0.1:9093 and sent to nobody; name a receiver of your own here.
route: {receiver: nobody, group_by: [alertname], group_wait: 30s, group_interval: 5m, repeat_interval: 4h}
receivers: [{name: nobody}]
"""
_FILEBEAT = """\
filebeat.inputs:
- type: filestream
  id: sextant
  paths: ["/logs/*.log"]
  parsers: [{ndjson: {target: sextant, add_error_key: true}}]
output.logstash: {hosts: ["logstash:5044"]}
logging.to_files: false
"""
_LOGSTASH = """\
input { beats { port => 5044 } }
filter { if [sextant][time] { date { match => ["[sextant][time]", "ISO8601"] } } }
output { elasticsearch { hosts => ["http://elasticsearch:9200"] index => "sextant-%{+YYYY.MM.dd}" } }
"""


def compose_files(cluster: Cluster) -> tuple[File, ...]:
    """The compose file and what its services read. Nothing where no model fits one machine."""
    engines = [each for each in cluster.workloads if each.nodes == 1]
    left_out = {each.served.key for each in cluster.workloads if each.nodes > 1}
    served = tuple(each for each in cluster.order.served if each.key not in left_out)
    if not served:
        return ()
    order = msgspec.structs.replace(cluster.order, served=served)
    grafana = grafana_data("http://prometheus:9090")
    return (
        yaml_file(f"{FOLDER}/compose.yml", _compose(order, engines), comment=_SAID),
        text_file(f"{FOLDER}/sextant.yml", _document(order, engines)),
        text_file(f"{FOLDER}/prometheus.yml", _PROMETHEUS),
        text_file(f"{FOLDER}/alerts.yml", _ALERTS),
        text_file(f"{FOLDER}/alertmanager.yml", _ALERTMANAGER),
        text_file(f"{FOLDER}/filebeat.yml", _FILEBEAT),
        text_file(f"{FOLDER}/logstash.conf", _LOGSTASH),
        *(text_file(f"{FOLDER}/grafana/{name}", text) for name, text in grafana.items()),
    )


_SAID = (
    "Run in the repository: docker compose -f bundle/compose/compose.yml up --build\n"
    "Engines that want a key read it from the environment, the gateway from the file engine-key beside\n"
    "bundle/. With logs: --profile logs. The watching services keep no password here: bind them to no\n"
    "other address."
)


def _document(order: Order, engines: list[Workload]) -> str:
    facts = order.facts.engines
    spec = order.deployment.spec
    bare = spec.model_copy(update={"delivery": Delivery()})
    order = msgspec.structs.replace(order, deployment=order.deployment.model_copy(update={"spec": bare}))
    place = Place(
        engines={
            each.served.key: f"http://{each.part.name}:{each.command.port}{facts[each.kind].api_path}"
            for each in engines
        },
        engine_keys={
            each.served.key: f"file:/run/secrets/{ENGINE_KEYS}" for each in engines if each.command.secret_env
        },
        host="0.0.0.0",
        port=PORT,
        control_host="0.0.0.0",
        control_port=CONTROL_PORT,
    )
    return serving_document(order, place)


def _compose(order: Order, engines: list[Workload]) -> dict[str, Any]:
    keyed = any(each.command.secret_env for each in engines)
    services = {"gateway": _gateway(order, engines, keyed=keyed)}
    for workload in engines:
        services[workload.part.name] = _engine(workload)
    services.update(_watching(order))
    services.update(_logs(order))
    volumes = ("state", "mlflow", "prometheus", "grafana", "elasticsearch", "logs")
    whole: dict[str, Any] = {
        "name": order.name,
        "services": services,
        "networks": {"inside": {"internal": True}, "outside": {}},
        "volumes": {name: {} for name in volumes},
    }
    kept = {_config_name(path): content for each in engines for path, content in each.command.files.items()}
    if kept:
        # A dollar is Compose's own; two of them stand for one.
        whole["configs"] = {
            name: {"content": text.decode().replace("$", "$$")} for name, text in kept.items()
        }
    if keyed:
        # One key for all engines of this machine, by value, as their programs take it.
        whole["secrets"] = {ENGINE_KEYS: {"file": f"../../{ENGINE_KEYS}"}}
    return whole


def _hardened(
    image: str, *, user: int, memory: str, networks: tuple[str, ...] = ("inside",)
) -> dict[str, Any]:
    """What all services have in common: no root, no capability, nothing written to the image."""
    return {
        "image": image,
        "user": f"{user}:{user}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        "mem_limit": memory,
        "pids_limit": 4096,
        "tmpfs": ["/tmp"],  # noqa: S108 - in the container
        "networks": list(networks),
        "logging": {"driver": "json-file", "options": {"max-size": "50m", "max-file": "3"}},
    }


def _own(host: int, inside: int) -> str:
    return f"127.0.0.1:{host}:{inside}"


def _gateway(order: Order, engines: list[Workload], *, keyed: bool) -> dict[str, Any]:
    probe = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}/ready', timeout=3)"
    # Its log goes to a file beside the terminal's, for Filebeat; Sextant itself is the first process.
    start = (
        "mkfifo /tmp/log; tee -a /var/log/sextant/gateway.log < /tmp/log & "
        f"exec sextant up {_PLACE}/sextant.yaml --state /var/lib/sextant/state > /tmp/log 2>&1"
    )
    body = {
        **_hardened(
            order.images.reference("sextant"), user=USER, memory="4g", networks=("inside", "outside")
        ),
        "build": {"context": "../..", "dockerfile": f"bundle/{SEXTANT}"},
        "command": ["/bin/sh", "-c", start],
        "env_file": [{"path": "../../sextant.env", "required": False}],
        "volumes": [
            f"./sextant.yml:{_PLACE}/sextant.yaml:ro",
            "state:/var/lib/sextant",
            "logs:/var/log/sextant",
        ],
        "ports": [_own(PORT, PORT), _own(CONTROL_PORT, CONTROL_PORT)],
        "healthcheck": {
            "test": ["CMD", "python3", "-c", probe],
            "interval": "10s",
            "timeout": "5s",
            "start_period": "60s",
        },
    }
    if keyed:
        body["secrets"] = [ENGINE_KEYS]
    if engines:
        body["depends_on"] = {each.part.name: {"condition": "service_started"} for each in engines}
    return body


def _engine(workload: Workload) -> dict[str, Any]:
    command, device = workload.command, workload.device
    memory = f"{workload.memory_bytes >> 30}g"
    environment = {"HOME": "/tmp/home", **(device.env if device is not None else {}), **command.env}  # noqa: S108
    for name in command.secret_env:
        environment[name] = f"${{{name}:?the key of the engines}}"
    body: dict[str, Any] = {
        **_hardened(workload.image, user=workload.user, memory=memory),
        "environment": environment,
        "shm_size": f"{workload.shared_memory_bytes >> 30}g",
        "volumes": [f"../../models:{MODELS_PATH}:ro"],
    }
    if command.argv:
        body["entrypoint"], body["command"] = [command.argv[0]], list(command.argv[1:])
    if command.files:
        body["configs"] = [{"source": _config_name(path), "target": path} for path in command.files]
    if device is None or not workload.per_pod:
        return body
    if device.compose:
        asked = {"driver": device.compose, "count": workload.per_pod, "capabilities": ["gpu"]}
        body["deploy"] = {"resources": {"reservations": {"devices": [asked]}}}
    else:
        body["devices"] = [f"{path}:{path}" for path in device.paths if "*" not in path]
        body["group_add"] = list(device.groups)
    return body


def _config_name(path: str) -> str:
    return path.strip("/").replace("/", "-")


def _watching(order: Order) -> dict[str, Any]:
    images, both = order.images, ("inside", "outside")
    grafana = "/etc/grafana"
    command = ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--serve-artifacts"]
    stores = [
        "--backend-store-uri",
        "sqlite:////data/mlflow.db",
        "--artifacts-destination",
        "file:///data/files",
    ]
    return {
        "mlflow": {
            **_hardened(images.reference("mlflow"), user=USER, memory="2g", networks=both),
            "build": {"context": "../..", "dockerfile": f"bundle/{MLFLOW}"},
            "command": [*command, *stores],
            "volumes": ["mlflow:/data"],
            "ports": [_own(5000, 5000)],
        },
        "prometheus": {
            **_hardened(images.reference("prometheus"), user=65534, memory="2g", networks=both),
            "command": ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"],
            "volumes": [
                "./prometheus.yml:/etc/prometheus/prometheus.yml:ro",
                "./alerts.yml:/etc/prometheus/alerts.yml:ro",
                "prometheus:/prometheus",
            ],
            "ports": [_own(9090, 9090)],
        },
        "alertmanager": {
            **_hardened(images.reference("alertmanager"), user=65534, memory="256m", networks=both),
            "command": ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/tmp/data"],
            "volumes": ["./alertmanager.yml:/etc/alertmanager/alertmanager.yml:ro"],
            "ports": [_own(9093, 9093)],
        },
        "grafana": {
            **_hardened(images.reference("grafana"), user=472, memory="512m", networks=both),
            "environment": {"GF_AUTH_ANONYMOUS_ENABLED": "true", "GF_ANALYTICS_REPORTING_ENABLED": "false"},
            "volumes": [
                f"./grafana/datasource.yaml:{grafana}/provisioning/datasources/sextant.yaml:ro",
                f"./grafana/provider.yaml:{grafana}/provisioning/dashboards/sextant.yaml:ro",
                f"./grafana/dashboard.json:{grafana}/dashboards/sextant.json:ro",
                "grafana:/var/lib/grafana",
            ],
            "ports": [_own(3000, 3000)],
        },
    }


def _logs(order: Order) -> dict[str, Any]:
    images, both = order.images, ("inside", "outside")
    elastic = {
        "discovery.type": "single-node",
        "xpack.security.enabled": "false",
        "ES_JAVA_OPTS": "-Xms1g -Xmx1g",
    }
    found: dict[str, dict[str, Any]] = {
        "elasticsearch": {
            **_hardened(images.reference("elasticsearch"), user=1000, memory="2g"),
            "environment": elastic,
            "volumes": ["elasticsearch:/usr/share/elasticsearch/data"],
        },
        "logstash": {
            **_hardened(images.reference("logstash"), user=1000, memory="2g"),
            "environment": {"XPACK_MONITORING_ENABLED": "false"},
            "volumes": ["./logstash.conf:/usr/share/logstash/pipeline/logstash.conf:ro"],
            "depends_on": ["elasticsearch"],
        },
        "filebeat": {
            **_hardened(images.reference("filebeat"), user=USER, memory="512m"),
            "command": ["-e", "--strict.perms=false", "--path.data=/tmp/filebeat"],
            "volumes": ["./filebeat.yml:/usr/share/filebeat/filebeat.yml:ro", "logs:/logs:ro"],
            "depends_on": ["logstash"],
        },
        "kibana": {
            **_hardened(images.reference("kibana"), user=1000, memory="2g", networks=both),
            "environment": {"ELASTICSEARCH_HOSTS": "http://elasticsearch:9200"},
            "ports": [_own(5601, 5601)],
            "depends_on": ["elasticsearch"],
        },
    }
    for name, body in found.items():
        body["profiles"] = ["logs"]
        if name != "filebeat":
            # Elastic's images write settings and plug-ins below their own folders when they start.
            body["read_only"] = False
    return found
