"""What joins two sites: the mesh's rules, PostgreSQL's replication, and experiments that break them."""

from __future__ import annotations

from sextant.render.dumping import script_file, text_file
from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.objects import Object, made
from sextant.spec.bundle import File
from sextant.spec.document import Site

CONSECUTIVE_ERRORS, EJECTED_FOR = 5, "30s"
"""A pod that failed so often in a row gets no traffic for so long."""
LAG_METRIC = "pg_replication_lag_seconds"
"""Of postgres_exporter, read from the standby."""
APART_MS = 10
"""The most between two centres that both write: each row crosses it once."""
SLOT = "sextant_standby"


def mesh(cluster: Cluster, here: Site, other: Site, *, falls_back: bool) -> tuple[Object, ...]:
    """Istio's rules for the gateway's callers at one site. Where `falls_back`, they go to the other site
    while this one has no healthy pod; else traffic that began here stays here."""
    part = cluster.part("gateway")
    host = f"gateway.{cluster.namespace}.svc.cluster.local"
    outliers = {
        "consecutive5xxErrors": CONSECUTIVE_ERRORS,
        "interval": "5s",
        "baseEjectionTime": EJECTED_FOR,
        "maxEjectionPercent": 100,
    }
    policy: Object = {"outlierDetection": outliers}
    if falls_back and here.region and other.region:
        failover = [{"from": here.region, "to": other.region}]
        policy["loadBalancer"] = {"localityLbSetting": {"enabled": True, "failover": failover}}
    rule = {
        "host": host,
        "trafficPolicy": policy,
        "subsets": [{"name": here.name, "labels": {"topology.istio.io/cluster": here.name}}],
    }
    destination: Object = {"host": host, "port": {"number": 443}}
    if not falls_back:
        destination["subset"] = here.name
    route = {
        "hosts": [host],
        "tls": [
            {
                "match": [{"port": 443, "sniHosts": [host, host.removesuffix(".cluster.local")]}],
                "route": [{"destination": destination}],
            }
        ],
    }
    return (
        made("networking.istio.io/v1/DestinationRule", part, rule),
        made("networking.istio.io/v1/VirtualService", part, route),
    )


def replication_alert(cluster: Cluster, rpo_s: int) -> Object:
    """Somebody is called before more is at stake than may be lost."""
    alerts = [
        {
            "alert": "SextantReplicationBehind",
            "expr": f"max({LAG_METRIC}) > {rpo_s}",
            "for": "30s",
            "labels": {"severity": "critical"},
            "annotations": {"summary": f"The standby is more than {rpo_s} s behind: so much would be lost."},
        },
        {
            "alert": "SextantReplicationUnknown",
            "expr": f"absent({LAG_METRIC})",
            "for": "5m",
            "labels": {"severity": "critical"},
            "annotations": {"summary": "Nobody knows how far the standby is behind."},
        },
    ]
    part = cluster.part("replication")
    groups = [{"name": "sextant-replication", "rules": alerts}]
    return made("monitoring.coreos.com/v1/PrometheusRule", part, {"groups": groups})


def replication_files(rpo_s: int) -> tuple[File, ...]:
    """PostgreSQL's settings on both sides, and the script that makes the standby."""
    primary = f"""\
# Include from the primary's postgresql.conf. Asynchronous: a commit does not wait for the other site; what
# the standby lacks when this site is lost is lost, which the alert on {rpo_s} s watches.
wal_level = replica
max_wal_senders = 5
max_replication_slots = 5
# Bounds what a standby that is away keeps on the primary's disk.
max_slot_wal_keep_size = 64GB
wal_sender_timeout = 10s
synchronous_standby_names = ''
hot_standby = on
hot_standby_feedback = on
ssl = on
password_encryption = scram-sha-256
"""
    hba = """\
# Add to the primary's pg_hba.conf, with the standby's address in place of STANDBY.
hostssl replication replicator STANDBY/32 scram-sha-256
hostssl sextant     sextant    all        scram-sha-256
"""
    standby = f"""
# Makes this host the standby of the server that PGHOST names; PGUSER is a role with REPLICATION, PGPASSFILE
# holds its password. PGDATA must be empty.
: "${{PGHOST:?the primary}}" "${{PGUSER:?a role with REPLICATION}}" "${{PGDATA:?an empty folder}}"
if [ -e "$PGDATA" ] && [ -n "$(ls -A "$PGDATA")" ]; then
  echo "$PGDATA is not empty; a standby begins with a copy of the primary" >&2
  exit 1
fi
export PGSSLMODE=verify-full
pg_basebackup --pgdata "$PGDATA" --wal-method stream --create-slot --slot {SLOT} --write-recovery-conf \\
  --checkpoint fast --progress
echo "start PostgreSQL on $PGDATA; it follows $PGHOST. To take over: pg_ctl promote --pgdata $PGDATA"
"""
    return (
        text_file("database/primary.conf", primary),
        text_file("database/pg_hba.conf", hba),
        script_file("database/standby.sh", standby),
    )


def experiments(cluster: Cluster, other: str) -> tuple[Object, ...]:
    """Chaos Mesh experiments for one site: a pod dies, the way to the other site is slow, or cut."""
    gateway, engine = cluster.part("gateway"), cluster.part("engine")
    chosen = {"namespaces": [cluster.namespace], "labelSelectors": gateway.selector}
    engines = {"namespaces": list(cluster.namespaces), "labelSelectors": engine.selector}
    kill = {"action": "pod-kill", "mode": "one", "duration": "30s"}
    network = {"mode": "all", "selector": chosen, "direction": "to", "externalTargets": [other]}
    slow = {"latency": f"{APART_MS}ms", "jitter": "2ms", "correlation": "0"}
    found = [
        ("PodChaos", "gateway-dies", {**kill, "selector": chosen}),
        ("NetworkChaos", "far-site-slow", {"action": "delay", "delay": slow, "duration": "5m", **network}),
        ("NetworkChaos", "far-site-away", {"action": "partition", "duration": "2m", **network}),
    ]
    if cluster.workloads:
        found.insert(1, ("PodChaos", "engine-dies", {**kill, "selector": engines}))
    return tuple(
        made(f"chaos-mesh.org/v1alpha1/{kind}", gateway, spec, name=name) for kind, name, spec in found
    )
