"""Mistakes to plant into good bundles, each with the rule or validator that must find it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.verify.bundles_under_test import change_objects, sign_again

from sextant.operations.verify.hardening import DECLARED
from sextant.operations.verify.pods import containers_of

Object = dict[str, Any]
Planted = Callable[[list[Object]], object]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """What is done to a bundle of one kind, and who must notice."""

    kind: str
    found_by: str
    plant: Callable[[Path], None]


def _first(objects: list[Object], kind: str, name: str = "") -> Object:
    return next(
        body for body in objects if body["kind"] == kind and body["metadata"]["name"].startswith(name)
    )


def _pod(objects: list[Object], kind: str = "Deployment", name: str = "gateway") -> Object:
    spec: Object = _first(objects, kind, name)["spec"]["template"]["spec"]
    return spec


def _set(place: Object, key: str, value: object) -> None:
    place[key] = value


def _pages(objects: list[Object]) -> Object:
    """The rule of the portal's route that leads to control."""
    rules = _first(objects, "HTTPRoute", "portal")["spec"]["rules"]
    found: Object = next(rule for rule in rules if rule.get("backendRefs"))
    return found


def _accelerators(container: Object, count: int) -> None:
    for side in ("requests", "limits"):
        container["resources"][side]["nvidia.com/gpu"] = count


def _in_data(body: Object, old: str, new: str) -> None:
    """Another text in the only entry of a ConfigMap."""
    ((key, text),) = body["data"].items()
    assert old in text, f"{key} does not hold {old}"
    body["data"][key] = text.replace(old, new, 1)


def _in_document(objects: list[Object], old: str, new: str) -> None:
    _in_data(_first(objects, "ConfigMap", "gateway"), old, new)


def _in_sidecar(objects: list[Object], old: str, new: str) -> None:
    named = (
        body
        for body in objects
        if body["kind"] == "ConfigMap" and body["metadata"]["name"].endswith("-sidecar")
    )
    _in_data(next(named), old, new)


def _listen_everywhere(pod: Object) -> None:
    command = pod["containers"][0]["command"]
    command[command.index("127.0.0.1")] = "0.0.0.0"


def among_objects(found_by: str, plant: Planted, *, kind: str = "cluster") -> Mistake:
    """A mistake in a cluster's objects."""

    def planted(bundle: Path) -> None:
        change_objects(bundle, plant)
        sign_again(bundle)

    return Mistake(kind, found_by, planted)


def in_text(kind: str, found_by: str, path: str, old: str, new: str) -> Mistake:
    """A mistake in the text of one file."""

    def planted(bundle: Path) -> None:
        file = bundle / path
        text = file.read_text()
        assert old in text, f"{path} does not hold {old}"
        file.write_text(text.replace(old, new, 1))
        sign_again(bundle)

    return Mistake(kind, found_by, planted)


def on_disk(kind: str, found_by: str, plant: Callable[[Path], object]) -> Mistake:
    """A mistake that the manifest is not made to fit."""

    def planted(bundle: Path) -> None:
        plant(bundle)

    return Mistake(kind, found_by, planted)


def _expose(bundle: Path) -> None:
    unit = bundle / UNIT
    kept = [
        line
        for line in unit.read_text().splitlines()
        if not line.startswith(("User=", "SystemCall")) and "Cap" not in line
    ]
    unit.write_text("\n".join(kept) + "\n")
    sign_again(bundle)


UNIT = "systemd/sextant.service"
FRONT = "front/nginx.conf"
TRITON = "engine/r1-7b/repository/r1-7b/config.pbtxt"
AMONG_OBJECTS: dict[str, tuple[str, Planted]] = {
    "an object twice": ("SX-V001", lambda all_: all_.append(dict(all_[0]))),
    "no service account": (
        "SX-V002",
        lambda all_: _set(_pod(all_), "serviceAccountName", "nobody"),
    ),
    "a ConfigMap that is not there": (
        "SX-V002",
        lambda all_: all_.remove(_first(all_, "ConfigMap", "gateway")),
    ),
    "a claim that is not there": (
        "SX-V002",
        lambda all_: all_.remove(_first(all_, "PersistentVolumeClaim", "weights-cache")),
    ),
    "a secret that nobody listed": (
        "SX-V002",
        lambda all_: _pod(all_)["volumes"].append({"name": "x", "secret": {"secretName": "x"}}),
    ),
    "a volume that nobody mounts": (
        "SX-V003",
        lambda all_: _pod(all_)["volumes"].append({"name": "x", "emptyDir": {}}),
    ),
    "a selector without pods": (
        "SX-V004",
        lambda all_: _set(_first(all_, "Service", "engine")["spec"]["selector"], "app", "other"),
    ),
    "a probe of an unknown port": (
        "SX-V005",
        lambda all_: _set(_pod(all_)["containers"][0]["livenessProbe"]["httpGet"], "port", "http"),
    ),
    "a service without an open port": (
        "SX-V005",
        lambda all_: _set(_first(all_, "Service", "engine")["spec"]["ports"][0], "targetPort", "grpc"),
    ),
    "a policy that lets nobody in": (
        "SX-V005",
        lambda all_: _set(_first(all_, "NetworkPolicy", "engine")["spec"], "ingress", []),
    ),
    "a monitor of no port": (
        "SX-V005",
        lambda all_: _set(_first(all_, "ServiceMonitor", "engine")["spec"]["endpoints"][0], "port", "x"),
    ),
    "no limits": ("SX-V006", lambda all_: _pod(all_)["containers"][0]["resources"].pop("limits")),
    "a moving tag": (
        "SX-V007",
        lambda all_: _set(_pod(all_)["containers"][0], "image", "docker.io/x/y:latest"),
    ),
    "root": ("SX-V008", lambda all_: _set(_pod(all_)["securityContext"], "runAsUser", 0)),
    "a folder of the host": (
        "SX-V008",
        lambda all_: _set(_pod(all_, "DaemonSet", "node")["volumes"][0], "hostPath", {"path": "/"}),
    ),
    "a capability": (
        "SX-V008",
        lambda all_: _set(
            _pod(all_)["containers"][0],
            "securityContext",
            {**_pod(all_)["containers"][0]["securityContext"], "capabilities": {"add": ["IPC_LOCK"]}},
        ),
    ),
    "a secret written out": (
        "SX-V009",
        lambda all_: containers_of(_first(all_, "Deployment", "engine")["spec"]["template"])[1]["env"].append(
            {"name": "VLLM_API_KEY", "value": "sk-1"}
        ),
    ),
    "an open namespace": (
        "SX-V010",
        lambda all_: all_.remove(_first(all_, "NetworkPolicy", "default-deny")),
    ),
    "unrestricted pods": (
        "SX-V010",
        lambda all_: _set(
            _first(all_, "Namespace")["metadata"]["labels"], "pod-security.kubernetes.io/enforce", "baseline"
        ),
    ),
    "replicas under an autoscaler": (
        "SX-V011",
        lambda all_: _set(_first(all_, "Deployment", "engine")["spec"], "replicas", 2),
    ),
    "a scaler of nothing": (
        "SX-V011",
        lambda all_: _set(_first(all_, "ScaledObject")["spec"]["scaleTargetRef"], "name", "x"),
    ),
    "a quota that is too small": (
        "SX-V012",
        lambda all_: _set(_first(all_, "ResourceQuota")["spec"]["hard"], "requests.nvidia.com/gpu", "1"),
    ),
    "a service account of another name": (
        "SX-V002",
        lambda all_: _set(_first(all_, "ServiceAccount", "gateway")["metadata"], "name", "gatevay"),
    ),
    "a priority that is not there": (
        "SX-V002",
        lambda all_: _set(_pod(all_), "priorityClassName", "urgent"),
    ),
    "a mount without its volume": (
        "SX-V003",
        lambda all_: _pod(all_)["containers"][0]["volumeMounts"].append({"name": "x", "mountPath": "/x"}),
    ),
    "a policy for nobody": (
        "SX-V004",
        lambda all_: _set(
            _first(all_, "NetworkPolicy", "gateway")["spec"]["podSelector"], "matchLabels", {"app": "x"}
        ),
    ),
    "an image without a tag": (
        "SX-V007",
        lambda all_: _set(_pod(all_)["containers"][0], "image", "docker.io/x/y"),
    ),
    "a root that may be written": (
        "SX-V008",
        lambda all_: _set(_pod(all_)["containers"][0]["securityContext"], "readOnlyRootFilesystem", False),
    ),
    "the network of the host": ("SX-V008", lambda all_: _set(_pod(all_), "hostNetwork", True)),
    "a secret with its value": (
        "SX-V009",
        lambda all_: all_.append(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "store", "namespace": "sextant"},
                "stringData": {"password": "x"},
            }
        ),
    ),
    "a namespace without a quota": (
        "SX-V010",
        lambda all_: all_.remove(_first(all_, "ResourceQuota")),
    ),
    "bounds the wrong way round": (
        "SX-V011",
        lambda all_: _set(_first(all_, "ScaledObject", "engine")["spec"], "minReplicaCount", 9),
    ),
    "fewer accelerators than planned": (
        "SX-V013",
        lambda all_: _accelerators(_pod(all_, "Deployment", "engine")["containers"][0], 4),
    ),
    "another number than planned": (
        "SX-V013",
        lambda all_: _set(
            _first(all_, "Deployment", "engine")["metadata"]["annotations"], "sextant.dev/accelerators", "16"
        ),
    ),
    "a probe that gives up early": (
        "SX-V014",
        lambda all_: _set(
            _pod(all_, "Deployment", "engine")["containers"][0]["startupProbe"], "failureThreshold", 3
        ),
    ),
    "no startup probe": (
        "SX-V014",
        lambda all_: _pod(all_, "Deployment", "engine")["containers"][0].pop("startupProbe"),
    ),
    "a rollout that gives up before its probe": (
        "SX-V014",
        lambda all_: _set(_first(all_, "Deployment", "engine")["spec"], "progressDeadlineSeconds", 600),
    ),
    "a budget that blocks": (
        "SX-V015",
        lambda all_: _set(
            _first(all_, "PodDisruptionBudget", "gateway"),
            "spec",
            {
                "minAvailable": 50,
                "selector": _first(all_, "PodDisruptionBudget", "gateway")["spec"]["selector"],
            },
        ),
    ),
    "two autoscalers of one workload": (
        "SX-V016",
        lambda all_: all_.append(
            {
                **_first(all_, "HorizontalPodAutoscaler"),
                "metadata": {"name": "second", "namespace": "sextant"},
            }
        ),
    ),
    "a topology that no node has": (
        "SX-V017",
        lambda all_: _set(_pod(all_)["topologySpreadConstraints"][0], "topologyKey", "topology.io/rack"),
    ),
    "a folder of the node that nobody named": (
        "SX-V018",
        lambda all_: _set(_first(all_, "PersistentVolume")["spec"]["hostPath"], "path", "/etc"),
    ),
    "an API that is gone": (
        "SX-V107",
        lambda all_: _set(_first(all_, "PodDisruptionBudget"), "apiVersion", "policy/v1beta1"),
    ),
    "a gateway's document that cannot be read": (
        "SX-V104",
        lambda all_: _set(_first(all_, "ConfigMap", "gateway")["data"], "sextant.yaml", "kind: Nothing"),
    ),
    "a field of no schema": (
        "schema",
        lambda all_: _set(_first(all_, "Deployment", "engine")["spec"], "replica", 2),
    ),
    "a port as a word": (
        "schema",
        lambda all_: _set(_first(all_, "Service", "engine")["spec"]["ports"][0], "port", "https"),
    ),
    "an expression that Prometheus cannot read": (
        "promtool check rules",
        lambda all_: _set(_first(all_, "PrometheusRule")["spec"]["groups"][0]["rules"][0], "expr", "sum(x"),
    ),
}
BESIDE: dict[str, tuple[str, Planted]] = {
    "root in a namespace that does not say why": (
        "SX-V008",
        lambda all_: _first(all_, "Namespace", "sextant-build")["metadata"].pop("annotations"),
    ),
    "a namespace that trusts its pods and does not say why": (
        "SX-V010",
        lambda all_: _set(_first(all_, "Namespace", "logging")["metadata"], "annotations", {DECLARED: " "}),
    ),
    "the network of the host, where only root was declared": (
        "SX-V008",
        lambda all_: _set(_pod(all_, "Job", "build"), "hostNetwork", True),
    ),
    "a capability that the declared level does not have": (
        "SX-V008",
        lambda all_: _set(
            _pod(all_, "Job", "build")["containers"][0],
            "securityContext",
            {"allowPrivilegeEscalation": False, "capabilities": {"add": ["SYS_ADMIN"]}},
        ),
    ),
    "logs without a quota": (
        "SX-V010",
        lambda all_: all_.remove(
            next(
                body
                for body in all_
                if body["kind"] == "ResourceQuota" and body["metadata"]["namespace"] == "logging"
            )
        ),
    ),
}
"""In the parts beside a deployment, which the mode container has."""
OF_A_SERVICE: dict[str, tuple[str, Planted]] = {
    "a route to all of the admin API": (
        "SX-V021",
        lambda all_: _set(_pages(all_)["matches"][0]["path"], "value", "/"),
    ),
    "a route to the portal's neighbours": (
        "SX-V021",
        lambda all_: _set(_pages(all_)["matches"][0]["path"], "type", "RegularExpression"),
    ),
    "a route without a path": ("SX-V021", lambda all_: _pages(all_).pop("matches")),
    "an ingress to the admin API": (
        "SX-V021",
        lambda all_: all_.append(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "Ingress",
                "metadata": {"name": "second", "namespace": "sextant"},
                "spec": {"defaultBackend": {"service": {"name": "admin", "port": {"number": 443}}}},
            }
        ),
    ),
    "a load balancer in front of the admin API": (
        "SX-V021",
        lambda all_: _set(_first(all_, "Service", "admin")["spec"], "type", "LoadBalancer"),
    ),
    "an admin API that everybody may come to": (
        "SX-V021",
        lambda all_: _first(all_, "NetworkPolicy", "portal")["spec"]["ingress"][0].pop("from"),
    ),
    "an agreement that nobody is asked to bring": (
        "SX-V002",
        lambda all_: _set(
            next(each for each in _pod(all_)["volumes"] if each["name"] == "agreement")["secret"],
            "secretName",
            "agreement",
        ),
    ),
    "a pace limit of no schema": (
        "schema",
        lambda all_: _set(
            _first(all_, "BackendTrafficPolicy")["spec"]["rateLimit"]["local"]["rules"][0]["limit"],
            "unit",
            "Fortnight",
        ),
    ),
}
"""In what only a service for many tenants has."""
MISTAKES: dict[str, Mistake] = {
    **{name: among_objects(by, plant, kind="container") for name, (by, plant) in BESIDE.items()},
    **{name: among_objects(found_by, plant) for name, (found_by, plant) in AMONG_OBJECTS.items()},
    "a file changed by hand": on_disk(
        "cluster", "SX-V101", lambda bundle: (bundle / "README.md").write_text("mine")
    ),
    "a file that is missing": on_disk(
        "cluster", "SX-V101", lambda bundle: (bundle / "manifests/50-gateway.yaml").unlink()
    ),
    "a file that was added": on_disk(
        "cluster", "SX-V101", lambda bundle: (bundle / "manifests/99-more.yaml").write_text("a: 1\n")
    ),
    "a file that is no YAML": in_text("cluster", "SX-V102", "manifests/50-gateway.yaml", "kind:", "kind: ]"),
    "a password in a document": in_text(
        "edge", "SX-V103", "sextant.yaml", "spec:", "# password: Tr0ub4dor&3x\nspec:"
    ),
    "a private key": in_text(
        "nginx", "SX-V103", "lib.sh", "umask 022", "umask 022\n# -----BEGIN EC PRIVATE KEY-----"
    ),
    "a PIN in nginx's configuration": in_text(
        "hsm",
        "SX-V108",
        FRONT,
        "pin-source=file:/run/credentials",
        "pin-value=123456&x=file:/run/credentials",
    ),
    "a PIN in OpenSSL's configuration": in_text(
        "hsm", "SX-V108", "front/openssl-hsm.cnf", "init = 1", "PIN = 123456\ninit = 1"
    ),
    "a PIN in a document": in_text(
        "hsm", "SX-V108", "sextant.yaml", "pin: file:/etc/sextant/hsm-pin", "pin: '123456'"
    ),
    "a PIN in a document as JSON has it": in_text(
        "hsm", "SX-V108", "sextant.yaml", "pin: file:/etc/sextant/hsm-pin", "'pin': '123456'"
    ),
    "a front without its PIN": in_text(
        "hsm", "SX-V109", "systemd/sextant-front.service", "LoadCredential=hsm-pin", "LoadCredential=other"
    ),
    "a document that cannot be read": in_text("edge", "SX-V104", "sextant.yaml", "mode:", "mood:"),
    "a unit that is not there": in_text(
        "edge", "SX-V105", "units.list", "sextant.target", "sextant-more.target"
    ),
    "a script that may not be run": on_disk(
        "edge", "SX-V106", lambda bundle: (bundle / "install.sh").chmod(0o644)
    ),
    "a script that goes on": in_text("edge", "SX-V106", "install.sh", "set -eu", "set -u"),
    "a word without quotes": in_text("edge", "shellcheck", "install.sh", 'stage "$here"', "stage $here"),
    "a value that systemd ignores": in_text(
        "edge", "systemd-analyze verify", UNIT, "Restart=always", "Restart=sometimes"
    ),
    "a key that systemd ignores": in_text(
        "edge", "systemd-analyze verify", UNIT, "MemoryHigh=", "MemoryHihg="
    ),
    "a slice that is none": in_text(
        "edge",
        "systemd-analyze verify",
        UNIT,
        "Slice=sextant-serving.slice",
        "Slice=sextant-serving",
    ),
    "a unit that is exposed": on_disk("edge", "systemd-analyze security", _expose),
    "a directive that nginx does not know": in_text("nginx", "nginx -t", FRONT, "least_conn;", "least_con;"),
    "a backend that haproxy does not have": in_text(
        "haproxy",
        "haproxy -c",
        "front/haproxy.cfg",
        "default_backend gateway",
        "default_backend gatway",
    ),
    "an interval that is none": in_text(
        "nginx",
        "keepalived",
        "hosts/server-0/keepalived.conf",
        "advert_int 0.1",
        "advert_int fast",
    ),
    "a Dockerfile that runs as root": in_text(
        "container", "hadolint", "images/sextant/Dockerfile", "USER 65532:65532", "USER root"
    ),
    "a Dockerfile with an image that moves": in_text(
        "container", "hadolint", "images/mlflow/Dockerfile", ":3.13-slim-trixie AS build", ":latest AS build"
    ),
    "a key that Compose does not know": in_text(
        "container", "docker compose config", "compose/compose.yml", "cap_drop:", "cap_dropped:"
    ),
    "a volume that Compose is not told of": in_text(
        "container", "docker compose config", "compose/compose.yml", "- state:/var", "- statt:/var"
    ),
    "alerts for a receiver that is not there": in_text(
        "container", "amtool", "compose/alertmanager.yml", "receiver: nobody", "receiver: somebody"
    ),
    "a scrape that Prometheus cannot read": in_text(
        "container", "promtool check config", "compose/prometheus.yml", "scrape_configs:", "scrape_config:"
    ),
    "an alert in a file that Prometheus cannot read": in_text(
        "container", "promtool check rules", "compose/alerts.yml", "absent(", "absent(("
    ),
    "a job of GitHub without a machine": in_text(
        "container", "workflow of GitHub", "ci/github.yml", "runs-on:", "runs_on:"
    ),
    "a job of GitLab without a script": in_text(
        "container", "pipeline of GitLab", "ci/gitlab.yml", "script:", "scripts:"
    ),
    **{name: among_objects(by, plant, kind="saas") for name, (by, plant) in OF_A_SERVICE.items()},
    "an engine whose id nobody registers": among_objects(
        "SX-V019",
        lambda objects: objects.remove(_first(objects, "ClusterSPIFFEID", "sextant-engine")),
        kind="identities",
    ),
    "a registration for pods that are not there": among_objects(
        "SX-V019",
        lambda objects: _set(
            _first(objects, "ClusterSPIFFEID", "sextant-gateway")["spec"]["podSelector"]["matchLabels"],
            "app.kubernetes.io/component",
            "gatway",
        ),
        kind="identities",
    ),
    "a registration in another namespace": among_objects(
        "SX-V019",
        lambda objects: _set(
            _first(objects, "ClusterSPIFFEID", "sextant-engine")["spec"]["namespaceSelector"][
                "matchExpressions"
            ][0],
            "values",
            ["elsewhere"],
        ),
        kind="identities",
    ),
    "a registration that gives names of hosts": among_objects(
        "SX-V019",
        lambda objects: _set(
            _first(objects, "ClusterSPIFFEID", "sextant-engine")["spec"],
            "dnsNameTemplates",
            ["{{ .PodMeta.Name }}"],
        ),
        kind="identities",
    ),
    "an engine that is expected to be somebody else": among_objects(
        "SX-V019",
        lambda objects: _in_document(objects, "sa/engine", "sa/engines"),
        kind="identities",
    ),
    "a trust domain that the ids are not of": among_objects(
        "SX-V019",
        lambda objects: _in_document(objects, "trust_domain: example.org", "trust_domain: example.com"),
        kind="identities",
    ),
    "an engine that answers past its proxy": among_objects(
        "SX-V020",
        lambda objects: _listen_everywhere(_pod(objects, name="engine")),
        kind="identities",
    ),
    "a proxy that lets another account in": among_objects(
        "SX-V020",
        lambda objects: _in_sidecar(objects, "sa/gateway", "sa/fetch"),
        kind="identities",
    ),
    "a policy that keeps the gateway from the proxy": among_objects(
        "SX-V005",
        lambda objects: _set(
            _first(objects, "NetworkPolicy", "engine")["spec"]["ingress"][0]["ports"][0], "port", 8000
        ),
        kind="identities",
    ),
    "a field that Triton does not know": in_text(
        "triton", "config.pbtxt", TRITON, "decoupled: true", "decouple: true"
    ),
    "a model of Triton's without a backend": in_text(
        "triton", "config.pbtxt", TRITON, 'backend: "python"', ""
    ),
    "a model of Triton's that counts no tokens": in_text(
        "triton",
        "config.pbtxt",
        TRITON,
        '"num_output_tokens" data_type: TYPE_INT32',
        '"x" data_type: TYPE_INT32',
    ),
    "a rule that nft cannot read": in_text("nginx", "nft -c", "front/sextant.nft", "tcp dport", "tcp port"),
}
