"""MLflow: a server, its registry of models, and a job that enters what this bundle serves."""

from __future__ import annotations

import hashlib
import json

from sextant.render.containers.dockerfiles import USER
from sextant.render.containers.versions import map_name, parameters, version_of
from sextant.render.containers.walls import NAMES, Wall, account, allowed, walled
from sextant.render.dumping import yaml_file
from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.gateway import secret_need
from sextant.render.kubernetes.objects import Object, Part, made
from sextant.render.kubernetes.pods import Placing, Volume, claimed, container, pod, resources, scratch
from sextant.spec.bundle import File, Need

PORT = 5000
FOLDER = "/var/lib/mlflow"
PGPORT = 5432
_REGISTER = """\
import json, os, sys
import mlflow
from mlflow.exceptions import MlflowException

client = mlflow.MlflowClient(sys.argv[1])
for model in json.load(open("/etc/register/models.json")):
    try:
        client.create_registered_model(model["name"], description=model["source"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.search_model_versions(f"name='{model['name']}'")
    if any(each.tags.get("configuration") == model["configuration"] for each in found):
        continue
    tags = {key: model[key] for key in ("version", "engine", "configuration")}
    made = client.create_model_version(model["name"], model["source"], tags=tags)
    client.set_registered_model_alias(model["name"], "v" + model["version"].replace(".", "-"), made.version)
    print(model["name"], model["version"], "is version", made.version)
"""


def namespace_of(cluster: Cluster) -> str:
    """Where MLflow and Grafana run."""
    return f"{cluster.namespace}-tools"


def registry_files(cluster: Cluster) -> tuple[File, ...]:
    """The server with its volume, and the job."""
    space = namespace_of(cluster)
    part, entry = cluster.part("mlflow", namespace=space), cluster.part("register", namespace=space)
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}}
    service = {"selector": part.selector, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]}
    wall = Wall(cores=16, memory_gib=32, storage_gib=64, pods=20)
    http = [{"port": PORT, "protocol": "TCP"}]
    callers = [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": cluster.order.name}}},
        {"namespaceSelector": {"matchLabels": {"sextant.dev/registry-client": "true"}}},
    ]
    database = {"ports": [{"port": PGPORT, "protocol": "TCP"}]}
    return (
        yaml_file("tools/00-namespace.yaml", *walled(cluster.part("tools", namespace=space), wall)),
        yaml_file(
            "tools/mlflow.yaml",
            account(part),
            allowed(part, ingress=[{"from": callers, "ports": http}], egress=[dict(NAMES), database]),
            made("v1/PersistentVolumeClaim", part, claim, name="mlflow-artifacts"),
            _server(cluster, part),
            made("v1/Service", part, service),
        ),
        *_register(cluster, part, entry),
    )


def _server(cluster: Cluster, part: Part) -> Object:
    volumes = (
        claimed("artifacts", FOLDER, claim="mlflow-artifacts", read_only=False),
        scratch("scratch", "/tmp", "1Gi"),  # noqa: S108 - a volume of the pod's own
    )
    host = f"mlflow.{part.namespace}.svc"
    address = {"secretKeyRef": {"name": "mlflow", "key": "backend-store-uri"}}
    check = {"httpGet": {"path": "/health", "port": "http"}}
    command = ["mlflow", "server", "--host", "0.0.0.0", "--port", str(PORT), "--workers", "2"]
    body = {
        "command": [*command, "--serve-artifacts", "--artifacts-destination", f"file://{FOLDER}/artifacts"],
        "env": [
            {"name": "MLFLOW_BACKEND_STORE_URI", "valueFrom": address},
            {"name": "MLFLOW_SERVER_ALLOWED_HOSTS", "value": f"{host}:*,{host},localhost:*,127.0.0.1:*"},
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": resources("2", "4Gi", "2Gi"),
        "startupProbe": {**check, "periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": {**check, "periodSeconds": 10, "timeoutSeconds": 5},
        "livenessProbe": {**check, "periodSeconds": 30, "timeoutSeconds": 10, "failureThreshold": 4},
        "volumeMounts": [volume.mount for volume in volumes],
    }
    image = cluster.order.images.reference("mlflow")
    spec = pod(part, [container("mlflow", image, body)], volumes, Placing(spread=False), user=USER)
    deployment = {
        "replicas": 1,
        "selector": {"matchLabels": part.selector},
        "strategy": {"type": "Recreate"},
        "template": {"metadata": {"labels": part.labels}, "spec": spec},
    }
    return made("apps/v1/Deployment", part, deployment)


def _register(cluster: Cluster, server: Part, part: Part) -> tuple[File, ...]:
    models = [
        {
            "name": version_of(each).base,
            "version": version_of(each).version,
            "source": parameters(each)["source"] or f"sextant:{each.served.key}",
            "engine": each.kind,
            "configuration": map_name(each),
        }
        for each in cluster.workloads
    ]
    if not models:
        return ()
    data = {"register.py": _REGISTER, "models.json": json.dumps(models, indent=2) + "\n"}
    mark = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:8]
    configuration = made("v1/ConfigMap", part, name=f"register-{mark}")
    configuration["data"] = data
    volumes = (
        Volume(name="models", source={"configMap": {"name": f"register-{mark}"}}, path="/etc/register"),
        scratch("scratch", "/tmp", "256Mi"),  # noqa: S108 - a volume of the pod's own
    )
    address = f"http://mlflow.{part.namespace}.svc:{PORT}"
    http = [{"port": PORT, "protocol": "TCP"}]
    asks = {"to": [{"podSelector": {"matchLabels": server.selector}}], "ports": http}
    body = {
        "command": ["python3", "/etc/register/register.py", address],
        "resources": resources("500m", "1Gi", "512Mi"),
        "volumeMounts": [volume.mount for volume in volumes],
    }
    image = cluster.order.images.reference("mlflow")
    spec = pod(part, [container("register", image, body)], volumes, Placing(spread=False), user=USER)
    spec["restartPolicy"] = "OnFailure"
    job = {"backoffLimit": 6, "template": {"metadata": {"labels": part.labels}, "spec": spec}}
    entered = made("batch/v1/Job", part, job, name=f"register-{mark}")
    entered["metadata"]["annotations"] = {"argocd.argoproj.io/sync-wave": "10"}
    policy = allowed(part, egress=[dict(NAMES), asks])
    return (yaml_file("tools/models.yaml", account(part), policy, configuration, entered),)


def registry_needs(cluster: Cluster) -> tuple[Need, ...]:
    """MLflow's database."""
    why = "MLflow keeps runs and versions in a database of its own in PostgreSQL"
    return (secret_need(namespace_of(cluster), "mlflow", ("backend-store-uri",), why),)
