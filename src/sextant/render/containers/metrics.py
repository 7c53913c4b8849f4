"""Metrics: a Prometheus of its own, and Grafana with one dashboard. For the Prometheus operator."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sextant.render.containers.registry import namespace_of
from sextant.render.containers.walls import NAMES, account, allowed
from sextant.render.dumping import yaml_file
from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.dashboard import dashboard
from sextant.render.kubernetes.gateway import secret_need
from sextant.render.kubernetes.network import PROMETHEUS_NAMESPACE as NAMESPACE
from sextant.render.kubernetes.objects import Object, Part, cluster_wide, made
from sextant.render.kubernetes.pods import Placing, Volume, container, pod, resources, scratch
from sextant.render.kubernetes.scaling import PROMETHEUS_URL
from sextant.spec.bundle import File, Need

GRAFANA_PORT, PROMETHEUS_PORT = 3000, 9090
GRAFANA_USER = 472
FOLDER = "/etc/grafana/provisioning"


def metric_files(cluster: Cluster) -> tuple[File, ...]:
    """Prometheus with what it may look at, and Grafana."""
    said = "Leave this out where a Prometheus already reads the monitors of all namespaces."
    return (
        yaml_file("observability/prometheus.yaml", *_prometheus(cluster), comment=said),
        yaml_file("tools/grafana.yaml", *_grafana(cluster)),
    )


def metric_needs(cluster: Cluster) -> tuple[Need, ...]:
    """Grafana's first password."""
    why = "Grafana's administrator signs in with it"
    return (secret_need(namespace_of(cluster), "grafana", ("admin-password",), why),)


def _prometheus(cluster: Cluster) -> tuple[Object, ...]:
    part = cluster.part("prometheus", namespace=NAMESPACE)
    name = f"{cluster.order.name}-prometheus"
    role = cluster_wide("rbac.authorization.k8s.io/v1/ClusterRole", name, cluster.order.name)
    look = ["get", "list", "watch"]
    role["rules"] = [
        {"apiGroups": [""], "resources": ["services", "endpoints", "pods"], "verbs": look},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": look},
    ]
    binding = cluster_wide("rbac.authorization.k8s.io/v1/ClusterRoleBinding", name, cluster.order.name)
    binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    binding["subjects"] = [{"kind": "ServiceAccount", "name": "prometheus", "namespace": NAMESPACE}]
    known = cluster.order.images
    among = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(cluster.namespaces)}
    spaces = {"matchExpressions": [among]}
    storage = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}}
    spec = {
        "image": known.reference("prometheus"),
        "version": known.known["prometheus"].tag,
        "replicas": 2,
        "retention": f"{cluster.order.defaults.log_days}d",
        "serviceAccountName": "prometheus",
        "serviceMonitorSelector": {},
        "serviceMonitorNamespaceSelector": spaces,
        "ruleSelector": {},
        "ruleNamespaceSelector": spaces,
        "resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"cpu": "2", "memory": "8Gi"}},
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "fsGroup": 65534},
        "storage": {"volumeClaimTemplate": {"spec": storage}},
    }
    return (
        made("v1/ServiceAccount", part, name="prometheus"),
        role,
        binding,
        made("monitoring.coreos.com/v1/Prometheus", part, spec, name=cluster.order.name),
    )


def _grafana(cluster: Cluster) -> tuple[Object, ...]:
    part = cluster.part("grafana", namespace=namespace_of(cluster))
    configuration = made("v1/ConfigMap", part)
    configuration["data"] = grafana_data(PROMETHEUS_URL)
    service = {
        "selector": part.selector,
        "ports": [{"name": "http", "port": GRAFANA_PORT, "targetPort": "http"}],
    }
    reads = {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}],
        "ports": [{"port": PROMETHEUS_PORT, "protocol": "TCP"}],
    }
    seen = {"from": [{"podSelector": {}}], "ports": [{"port": GRAFANA_PORT, "protocol": "TCP"}]}
    return (
        account(part),
        configuration,
        allowed(part, ingress=[seen], egress=[dict(NAMES), reads]),
        _grafana_deployment(cluster, part),
        made("v1/Service", part, service),
    )


def _grafana_deployment(cluster: Cluster, part: Part) -> Object:
    source = {"configMap": {"name": "grafana"}}
    places = {
        "datasource.yaml": f"{FOLDER}/datasources/sextant.yaml",
        "provider.yaml": f"{FOLDER}/dashboards/sextant.yaml",
        "dashboard.json": "/etc/grafana/dashboards/sextant.json",
    }
    volumes = (
        *(Volume(name="sextant", source=source, path=path, sub_path=key) for key, path in places.items()),
        scratch("data", "/var/lib/grafana", "1Gi"),
        scratch("scratch", "/tmp", "256Mi"),  # noqa: S108 - a volume of the pod's own
    )
    check = {"httpGet": {"path": "/api/health", "port": "http"}}
    password = {"secretKeyRef": {"name": "grafana", "key": "admin-password"}}
    body = {
        "env": [
            {"name": "GF_SECURITY_ADMIN_PASSWORD", "valueFrom": password},
            {"name": "GF_ANALYTICS_REPORTING_ENABLED", "value": "false"},
            {"name": "GF_ANALYTICS_CHECK_FOR_UPDATES", "value": "false"},
        ],
        "ports": [{"name": "http", "containerPort": GRAFANA_PORT}],
        "resources": resources("500m", "512Mi", "1Gi"),
        "readinessProbe": {**check, "periodSeconds": 10},
        "livenessProbe": {**check, "periodSeconds": 30, "failureThreshold": 4, "initialDelaySeconds": 60},
        "volumeMounts": [volume.mount for volume in volumes],
    }
    image = cluster.order.images.reference("grafana")
    spec = pod(part, [container("grafana", image, body)], volumes, Placing(spread=False), user=GRAFANA_USER)
    deployment = {
        "replicas": 1,
        "selector": {"matchLabels": part.selector},
        "template": {"metadata": {"labels": part.labels}, "spec": spec},
    }
    return made("apps/v1/Deployment", part, deployment)


def grafana_data(prometheus_url: str) -> Mapping[str, str]:
    """Grafana's data source, where it looks for dashboards, and the dashboard."""
    source = {
        "name": "Prometheus",
        "uid": "prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus_url,
        "isDefault": True,
    }
    provider = {"name": "sextant", "type": "file", "options": {"path": "/etc/grafana/dashboards"}}
    return {
        "datasource.yaml": json.dumps({"apiVersion": 1, "datasources": [source]}, indent=2) + "\n",
        "provider.yaml": json.dumps({"apiVersion": 1, "providers": [provider]}, indent=2) + "\n",
        "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
    }
