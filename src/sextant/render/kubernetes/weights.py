"""Weights on a cluster: one shared volume that a job fills, and a copy on every node that serves.

The copy only makes starts faster. An engine takes it when it is whole and its mark fits, and reads the
shared volume otherwise, so that a full or new node keeps nobody from starting. The node's folder is reached
through a persistent volume rather than a `hostPath` in the pod, which Pod Security's `restricted` profile
would refuse.
"""

from __future__ import annotations

from sextant.render.kubernetes.cluster import GGUF_FILE, USER, Cluster, Workload, distinct
from sextant.render.kubernetes.objects import GIB, Object, cluster_wide, dns_label, gibibytes, made
from sextant.render.kubernetes.pods import Placing, claimed, container, pod, resources, scratch

WEIGHTS_CLAIM = "weights"
CACHE_CLAIM = "weights-cache"
WEIGHTS_PATH = "/weights"
CACHE_PATH = "/weights-cache"
NODE_FOLDER = "/var/lib/sextant/weights"
"""On each node, a folder for each namespace; whoever prepares nodes gives those to `USER`."""
FILESYSTEM_CLASS = "rook-cephfs"
"""Rook's usual storage class for a file system that many pods read."""
ROOM = 1.2
"""Volumes have so much of what the weights take: a new version arrives beside an old one of a small model."""

CHOOSE = """\
if [ -f "/weights-cache/$1/.whole" ] && cmp -s "/weights/$1/.whole" "/weights-cache/$1/.whole"; then
  from=/weights-cache
elif [ -f "/weights/$1/.whole" ]; then
  from=/weights
else
  echo "the weights of $1 are not on the shared volume yet; the job fetch-$1 puts them there" >&2
  exit 1
fi
ln -sfn "$from/$1" "/models/$1"
echo "$1 is read from $from"
"""
"""Which copy an engine reads; `$1` is the model's key."""
READ_AT_ONCE = 8
AHEAD = f"""\
if [ "$3" = read ]; then
  began="$(date +%s)"
  count=0
  for file in "$from/$1"/*; do
    [ -f "$file" ] || continue
    cat "$file" >/dev/null &
    count=$((count + 1))
    [ $((count % {READ_AT_ONCE})) -ne 0 ] || wait
  done
  wait
  echo "$1 was read into memory in $(($(date +%s) - began)) s"
fi
"""
"""Reads the files side by side, so that the engine finds them in the page cache: by itself it reads one
after the other, tensor by tensor, at a small part of a disk's speed. `$3` says whether they fit."""

_COPY = """\
echo "keeping $1 on this node"
while :; do
  if [ -f "/weights/$1/.whole" ] && ! cmp -s "/weights/$1/.whole" "/weights-cache/$1/.whole"; then
    if mkdir -p "/weights-cache/.$1.part" && cp -a "/weights/$1/." "/weights-cache/.$1.part/"; then
      rm -rf "/weights-cache/$1"
      mv "/weights-cache/.$1.part" "/weights-cache/$1"
      echo "$1 is whole on this node"
    else
      rm -rf "/weights-cache/.$1.part"
      echo "$1 does not fit or may not be written; engines read the shared volume" >&2
    fi
  fi
  sleep 60 & wait $!
done
"""

_FETCH = f"""\
if [ "$(cat "/weights/$1/.whole" 2>/dev/null)" = "$2" ]; then echo "$1 is there"; exit 0; fi
answer="$(sextant model pull "$2" --state "/weights/.fetched-$1" --json)"
found="$(printf '%s' "$answer" | python3 -c 'import json, sys; print(json.load(sys.stdin)["path"])')"
rm -rf "/weights/.$1.part"
mkdir -p "/weights/.$1.part"
if [ -d "$found" ]; then
  cp -aL "$found/." "/weights/.$1.part/"
else
  cp -L "$found" "/weights/.$1.part/{GGUF_FILE}"
fi
printf '%s\\n' "$2" > "/weights/.$1.part/.whole"
chmod -R a+rX "/weights/.$1.part"
rm -rf "/weights/$1"
mv "/weights/.$1.part" "/weights/$1"
rm -rf "/weights/.fetched-$1"
echo "$1 is whole"
"""


def weights_objects(cluster: Cluster, namespace: str) -> tuple[Object, ...]:
    """Volumes of one namespace, the jobs that fill the shared one, and the pods that keep nodes' copies."""
    workloads = distinct(cluster.workloads_in(namespace))
    if not workloads:
        return ()
    part = cluster.part("weights", namespace=namespace)
    jobs = [_fetch_job(cluster, each) for each in workloads if is_fetched(each)]
    return (
        _shared_claim(cluster, workloads, namespace),
        made(
            "v1/PersistentVolumeClaim",
            part,
            {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "volumeName": _cache_volume(namespace),
                "resources": {"requests": {"storage": gibibytes(_room(workloads))}},
            },
            name=CACHE_CLAIM,
        ),
        *jobs,
        *(_node_cache(cluster, each) for each in workloads),
    )


def cache_volume(cluster: Cluster, namespace: str) -> tuple[Object, ...]:
    """The persistent volume that stands for each node's own folder. The cluster's administrator makes it."""
    workloads = distinct(cluster.workloads_in(namespace))
    if not workloads:
        return ()
    spec = {
        "capacity": {"storage": gibibytes(_room(workloads))},
        "accessModes": ["ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "claimRef": {"namespace": namespace, "name": CACHE_CLAIM},
        "hostPath": {"path": node_folder(namespace), "type": "DirectoryOrCreate"},
    }
    return (cluster_wide("v1/PersistentVolume", _cache_volume(namespace), cluster.order.name, spec),)


def node_folder(namespace: str) -> str:
    """Where a node keeps its copies for that namespace."""
    return f"{NODE_FOLDER}/{namespace}"


def _cache_volume(namespace: str) -> str:
    return dns_label(f"{namespace}-{CACHE_CLAIM}")


def _room(workloads: tuple[Workload, ...]) -> float:
    return ROOM * sum(each.served.weights_bytes for each in workloads) + 10 * GIB


def _shared_claim(cluster: Cluster, workloads: tuple[Workload, ...], namespace: str) -> Object:
    part = cluster.part("weights", namespace=namespace)
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": cluster.order.deployment.spec.delivery.storage_class or FILESYSTEM_CLASS,
        # What is fetched lies there twice until it is checked and moved.
        "resources": {"requests": {"storage": gibibytes(2 * _room(workloads))}},
    }
    body = made("v1/PersistentVolumeClaim", part, spec, name=WEIGHTS_CLAIM)
    body["metadata"]["labels"] = {**part.labels, "velero.io/exclude-from-backup": "true"}
    return body


def is_fetched(workload: Workload) -> bool:
    """Whether the model is fetched by name; else somebody puts it on the volume."""
    return (workload.served.entry.source or "").startswith(("hf:", "modelscope:"))


def _fetch_job(cluster: Cluster, workload: Workload) -> Object:
    """Fetches one model by name. A job cannot be changed, so another source makes another job."""
    part = cluster.part("fetch", namespace=workload.part.namespace, model=workload.model_label)
    volumes = (
        claimed("weights", WEIGHTS_PATH, claim=WEIGHTS_CLAIM, read_only=False),
        scratch("scratch", "/tmp", "1Gi"),  # noqa: S108 - a volume of the pod's own
    )
    body = {
        "command": ["/bin/sh", "-eu", "-c", _FETCH],
        "args": ["fetch", workload.served.key, workload.served.entry.source],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - the same
        "envFrom": [{"secretRef": {"name": "hub", "optional": True}}],
        "resources": resources("1", "2Gi", "1Gi"),
        "volumeMounts": [volume.mount for volume in volumes],
    }
    fetching = container("fetch", cluster.sextant_image, body)
    spec = pod(part, [fetching], volumes, Placing(spread=False), user=USER)
    spec["restartPolicy"] = "OnFailure"
    job = {
        "backoffLimit": 6,
        "activeDeadlineSeconds": 86_400,
        "template": {"metadata": {"labels": part.labels}, "spec": spec},
    }
    return made("batch/v1/Job", part, job)


def _node_cache(cluster: Cluster, workload: Workload) -> Object:
    """One pod on every node that serves the model: it has the engine's image, and copies the weights."""
    part = cluster.part("node-cache", namespace=workload.part.namespace, model=workload.model_label)
    volumes = (
        claimed("weights", WEIGHTS_PATH, claim=WEIGHTS_CLAIM),
        claimed("weights-cache", CACHE_PATH, claim=CACHE_CLAIM, read_only=False),
    )
    body = {
        "command": ["/bin/sh", "-u", "-c", _COPY],
        "args": ["copy", workload.served.key],
        "resources": resources("500m", "512Mi", "64Mi"),
        "volumeMounts": [volume.mount for volume in volumes],
    }
    placing = Placing(
        node_selector=workload.node_selector,
        # As the engine's: where that may not run, its weights need not be.
        tolerations=workload.tolerations,
        priority_class=f"{cluster.namespace}-serving",
        spread=False,
    )
    spec = pod(part, [container("copy", workload.image, body)], volumes, placing, user=USER)
    daemon = {
        "selector": {"matchLabels": part.selector},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
        "template": {"metadata": {"labels": part.labels}, "spec": spec},
    }
    return made("apps/v1/DaemonSet", part, daemon)
