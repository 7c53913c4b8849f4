"""Logs: Filebeat on each node, Logstash, Elasticsearch, Kibana with saved searches, by Elastic's operator.

Sextant writes one JSON object a line, for each request and for what its processes have to say, without prompt
or answer; engines write text. Logstash reads the first kind into fields below `sextant`.
"""

from __future__ import annotations

import json

from sextant.render.containers.walls import NAMES, POLICY, Wall, walled
from sextant.render.dumping import text_file, yaml_file
from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.objects import Object, Part, made
from sextant.render.kubernetes.pods import resources
from sextant.spec.bundle import File

NAMESPACE = "logging"
OPERATOR_NAMESPACE = "elastic-system"
NAME = "logs"
BEATS_PORT = 5044
INDEX = "sextant"
SEARCHES = "observability/saved-searches.ndjson"
NODE_LOGS = ("/var/log/containers", "/var/log/pods")
"""Folders of each node that Filebeat reads."""
_NAME = "kubernetes.io/metadata.name"

PIPELINE = """\
input { beats { port => 5044 } }
filter {
  dissect { mapping => { "[log][file][path]" => "/var/log/containers/%{pod}_%{namespace}_%{container}.log" } }
  json { source => "message" target => "sextant" skip_on_invalid_json => true }
  if [sextant][time] { date { match => ["[sextant][time]", "ISO8601"] } }
}
output {
  elasticsearch {
    hosts => ["${LOGS_ES_HOSTS}"]
    user => "${LOGS_ES_USER}"
    password => "${LOGS_ES_PASSWORD}"
    ssl_certificate_authorities => "${LOGS_ES_SSL_CERTIFICATE_AUTHORITY}"
    index => "sextant-%{+YYYY.MM.dd}"
  }
}
"""
QUERIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Inference errors",
        'sextant.logger : "sextant.access" and (sextant.status >= 500 or sextant.outcome : ("engine_error" '
        'or "not_durable"))',
        ("status", "outcome", "model", "endpoint", "tenant_id", "request_id", "duration_ms"),
    ),
    (
        "Refused requests",
        'sextant.logger : "sextant.access" and sextant.status >= 400 and sextant.status < 500',
        ("status", "endpoint", "model", "tenant_id", "key_id", "request_id"),
    ),
    (
        "Slow first tokens",
        'sextant.logger : "sextant.access" and sextant.ttft_ms > 5000',
        ("ttft_ms", "model", "input_tokens", "output_tokens", "request_id"),
    ),
    (
        "What processes complain of",
        'sextant.level : ("warning" or "error" or "critical")',
        ("level", "process", "logger", "message"),
    ),
)
"""Title, query in Kibana's language, fields shown: of the access log and of processes' logs."""


def log_files(cluster: Cluster) -> tuple[File, ...]:
    """The stack, and the searches as Kibana imports them."""
    part = cluster.part("logs", namespace=NAMESPACE)
    why = "Filebeat, one on each node, reads the node's own log files, as root with one capability."
    wall = Wall(level="privileged", why=why, cores=256, memory_gib=512, storage_gib=1024, pods=1000)
    here: Object = {"podSelector": {}}
    operator = {"namespaceSelector": {"matchLabels": {_NAME: OPERATOR_NAMESPACE}}}
    inside = {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [here, operator]}],
        "egress": [dict(NAMES), {"to": [here]}],
    }
    objects = (
        *walled(part, wall),
        made(POLICY, part, inside, name="inside"),
        _elasticsearch(cluster, part),
        _kibana(cluster, part),
        _logstash(cluster, part),
        _filebeat(cluster, part),
    )
    searches = "\n".join(json.dumps(each) for each in saved_searches())
    return yaml_file("observability/logs.yaml", *objects), text_file(SEARCHES, searches)


def _pod(name: str, cpu: str, memory: str, storage: str = "2Gi") -> Object:
    return {"spec": {"containers": [{"name": name, "resources": resources(cpu, memory, storage)}]}}


def _version(cluster: Cluster, name: str) -> dict[str, str]:
    images = cluster.order.images
    return {"version": images.known[name].tag, "image": images.reference(name)}


def _elasticsearch(cluster: Cluster, part: Part) -> Object:
    claim = {
        "metadata": {"name": "elasticsearch-data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "200Gi"}}},
    }
    nodes = {
        "name": "default",
        "count": 3,
        # Without it every node would need another vm.max_map_count, which takes a privileged container.
        "config": {"node.store.allow_mmap": False},
        "podTemplate": _pod("elasticsearch", "2", "8Gi"),
        "volumeClaimTemplates": [claim],
    }
    spec = {**_version(cluster, "elasticsearch"), "nodeSets": [nodes]}
    return made("elasticsearch.k8s.elastic.co/v1/Elasticsearch", part, spec, name=NAME)


def _kibana(cluster: Cluster, part: Part) -> Object:
    spec = {
        **_version(cluster, "kibana"),
        "count": 1,
        "elasticsearchRef": {"name": NAME},
        "podTemplate": _pod("kibana", "1", "2Gi"),
    }
    return made("kibana.k8s.elastic.co/v1/Kibana", part, spec, name=NAME)


def _logstash(cluster: Cluster, part: Part) -> Object:
    port = {"name": "beats", "port": BEATS_PORT, "targetPort": BEATS_PORT, "protocol": "TCP"}
    spec = {
        **_version(cluster, "logstash"),
        "count": 2,
        "elasticsearchRefs": [{"name": NAME, "clusterName": NAME}],
        "pipelines": [{"pipeline.id": "sextant", "config.string": PIPELINE}],
        "services": [{"name": "beats", "service": {"spec": {"type": "ClusterIP", "ports": [port]}}}],
        "podTemplate": _pod("logstash", "1", "2Gi"),
    }
    return made("logstash.k8s.elastic.co/v1alpha1/Logstash", part, spec, name=NAME)


def _filebeat(cluster: Cluster, part: Part) -> Object:
    watched = {
        "type": "filestream",
        "id": "sextant",
        "paths": [f"{NODE_LOGS[0]}/*_{namespace}_*.log" for namespace in cluster.namespaces],
        "parsers": [{"container": {"stream": "all"}}],
        "prospector.scanner.symlinks": True,
    }
    mounts = [{"name": place.rpartition("/")[2], "mountPath": place, "readOnly": True} for place in NODE_LOGS]
    container: Object = {
        "name": "filebeat",
        "resources": resources("250m", "512Mi", "1Gi"),
        "securityContext": {
            "runAsUser": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]},
        },
        "volumeMounts": mounts,
    }
    volumes = [{"name": place.rpartition("/")[2], "hostPath": {"path": place}} for place in NODE_LOGS]
    pod = {"automountServiceAccountToken": False, "containers": [container], "volumes": volumes}
    # Engines stand on nodes that others keep off.
    pod["tolerations"] = [{"operator": "Exists", "effect": "NoSchedule"}]
    spec = {
        **_version(cluster, "filebeat"),
        "type": "filebeat",
        "config": {
            "filebeat.inputs": [watched],
            "output.logstash": {"hosts": [f"{NAME}-ls-beats.{NAMESPACE}.svc:{BEATS_PORT}"]},
        },
        "daemonSet": {"podTemplate": {"spec": pod}},
    }
    return made("beat.k8s.elastic.co/v1beta1/Beat", part, spec, name=NAME)


def saved_searches() -> tuple[Object, ...]:
    """The data view and a saved search for each of `QUERIES`, as Kibana exports them."""
    view = {
        "id": INDEX,
        "type": "index-pattern",
        "attributes": {"title": f"{INDEX}-*", "name": "Sextant", "timeFieldName": "@timestamp"},
        "references": [],
    }
    return (view, *(_search(*each) for each in QUERIES))


def _search(title: str, query: str, fields: tuple[str, ...]) -> Object:
    index = "kibanaSavedObjectMeta.searchSourceJSON.index"
    source = {"query": {"query": query, "language": "kuery"}, "filter": [], "indexRefName": index}
    return {
        "id": f"{INDEX}-{title.lower().replace(' ', '-')}",
        "type": "search",
        "attributes": {
            "title": f"Sextant: {title}",
            "description": "",
            "columns": [f"sextant.{field}" for field in fields],
            "sort": [["@timestamp", "desc"]],
            "kibanaSavedObjectMeta": {"searchSourceJSON": json.dumps(source)},
        },
        "references": [{"id": INDEX, "name": index, "type": "index-pattern"}],
    }
