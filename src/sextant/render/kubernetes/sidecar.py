"""The proxy beside an engine that ends mutual TLS: it lets the gateway's SPIFFE id in and nobody else.

Engines know nothing of SPIFFE. With `spec.security.spiffe` they listen on the pod's loopback address alone,
and Envoy stands before them: one port for the gateway, over TLS 1.3 with certificates that the SPIRE agent
hands out over its socket (SDS) and renews; another, in the clear, for two exact paths: the health check that
the kubelet asks and the metrics that Prometheus reads. It is an init container that keeps running, so that it
is there before the engine and goes after it.
"""

from __future__ import annotations

from typing import Any

from sextant.render.dumping import yaml_text
from sextant.render.kubernetes.cluster import LOOKS_PORT, LOOPBACK, MTLS_PORT, Cluster, Workload
from sextant.render.kubernetes.identity import agent_folder, agent_socket, spiffe_id
from sextant.render.kubernetes.objects import Object, made
from sextant.render.kubernetes.pods import Volume, container, resources

IMAGE = "envoy"
MTLS_NAME, LOOKS_NAME = "mutual-tls", "looks"
FILE = "/etc/envoy/envoy.yaml"
CONNECTIONS_MAX = 65_536
"""To the engine at a time; the gateway's own bounds come first."""
CONNECT_TIMEOUT_S = 5
_TYPE = "type.googleapis.com/envoy"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def sidecar_volumes(cluster: Cluster, workload: Workload) -> tuple[Volume, ...]:
    """What the proxy reads: its configuration, and the agent's socket."""
    configuration = {"configMap": {"name": _name(workload)}}
    return (
        Volume(name="sidecar", source=configuration, path=FILE, sub_path="envoy.yaml"),
        agent_volume(cluster),
    )


def agent_volume(cluster: Cluster) -> Volume:
    """The folder with the SPIRE agent's socket, as its CSI driver mounts it."""
    source = {"csi": {"driver": "csi.spiffe.io", "readOnly": True}}
    return Volume(name="spiffe", source=source, path=agent_folder(cluster))


def sidecar(cluster: Cluster, workload: Workload) -> Object:
    """The container. It counts as ready once it has a certificate to show."""
    body: dict[str, Any] = {
        "command": ["envoy", "--config-path", FILE, "--concurrency", "2", "--disable-hot-restart"],
        "args": ["--log-level", "warning"],
        "ports": [
            {"name": MTLS_NAME, "containerPort": MTLS_PORT},
            {"name": LOOKS_NAME, "containerPort": LOOKS_PORT},
        ],
        "resources": resources("1", "512Mi", "64Mi"),
        "startupProbe": {"tcpSocket": {"port": MTLS_NAME}, "periodSeconds": 2, "failureThreshold": 150},
        "readinessProbe": {"tcpSocket": {"port": MTLS_NAME}, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {"tcpSocket": {"port": LOOKS_NAME}, "periodSeconds": 15, "failureThreshold": 4},
        "volumeMounts": [volume.mount for volume in sidecar_volumes(cluster, workload)],
    }
    made_ = container("mutual-tls", cluster.order.images.reference(IMAGE), body)
    return {**made_, "restartPolicy": "Always"}


def sidecar_files(cluster: Cluster, workload: Workload) -> Object:
    """The ConfigMap with the proxy's configuration."""
    body = made("v1/ConfigMap", workload.part, name=_name(workload))
    body["data"] = {"envoy.yaml": envoy_text(cluster, workload)}
    return body


def envoy_text(cluster: Cluster, workload: Workload) -> str:
    """Envoy's configuration, YAML."""
    return yaml_text(
        {
            "node": {"id": workload.part.name, "cluster": cluster.order.name},
            "static_resources": {
                "listeners": [_mutual(cluster, workload), _looks(workload)],
                "clusters": [_engine(workload), _agent(cluster)],
            },
        }
    )


def _name(workload: Workload) -> str:
    return f"{workload.part.name}-sidecar"


def _mutual(cluster: Cluster, workload: Workload) -> Object:
    """For the gateway: what it sends is handed on as it is."""
    domain = cluster.trust_domain
    own = spiffe_id(cluster, workload.part.namespace, workload.part.component)
    wanted = {"san_type": "URI", "matcher": {"exact": spiffe_id(cluster, cluster.namespace, "gateway")}}
    tls = {
        "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [{"name": own, "sds_config": _sds()}],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [wanted]},
                "validation_context_sds_secret_config": {
                    "name": f"spiffe://{domain}",
                    "sds_config": _sds(),
                },
            },
        },
    }
    proxy = {
        "@type": f"{_TYPE}.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": MTLS_NAME,
        "cluster": "engine",
        # A gateway closes what it does not use; a first token may take minutes.
        "idle_timeout": "0s",
    }
    chain = {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}],
    }
    return {"name": MTLS_NAME, "address": _everywhere(MTLS_PORT), "filter_chains": [chain]}


def _looks(workload: Workload) -> Object:
    """For who looks whether it is well and how busy: these paths, and no other."""
    paths = sorted({workload.command.health_path, workload.command.metrics_path} - {""})
    routes: list[Object] = [
        {"match": {"path": path}, "route": {"cluster": "engine", "timeout": "60s"}} for path in paths
    ]
    routes.append({"match": {"prefix": "/"}, "direct_response": {"status": 404}})
    router = {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": LOOKS_NAME,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "route_config": {
            "virtual_hosts": [{"name": LOOKS_NAME, "domains": ["*"], "routes": routes}],
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": LOOKS_NAME,
        "address": _everywhere(LOOKS_PORT),
        "filter_chains": [{"filters": filters}],
    }


def _engine(workload: Workload) -> Object:
    at = {"socket_address": {"address": LOOPBACK, "port_value": workload.command.port}}
    most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), CONNECTIONS_MAX)
    return {
        "name": "engine",
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": _assigned("engine", at),
    }


def _agent(cluster: Cluster) -> Object:
    http = {
        "@type": f"type.googleapis.com/{_HTTP}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "name": "spire-agent",
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "typed_extension_protocol_options": {_HTTP: http},
        "load_assignment": _assigned("spire-agent", {"pipe": {"path": agent_socket(cluster)}}),
    }


def _assigned(name: str, address: Object) -> Object:
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def _everywhere(port: int) -> Object:
    return {"socket_address": {"address": "0.0.0.0", "port_value": port}}


def _sds() -> Object:
    """The agent, waited for as long as it takes: before that nothing listens, and the pod is not ready."""
    service = {"envoy_grpc": {"cluster_name": "spire-agent"}}
    return {
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [service],
        },
    }
