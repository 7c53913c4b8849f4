"""Code that engines compile for themselves, kept on each node: a start that finds it need not compile again.

One folder for each model and image, which its engine makes and nobody else may write: what lies there is run.
It is reached through a persistent volume, as the node's weights are (`weights.py`). Where the node has none
the engine compiles into a folder of its pod.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sextant.render.kubernetes.cluster import MODELS_PATH, Cluster, Workload
from sextant.render.kubernetes.objects import GIB, Object, cluster_wide, dns_label, gibibytes, made
from sextant.render.kubernetes.pods import Volume, claimed

CLAIM = "compiled-cache"
PATH = "/compiled"
NODE_FOLDER = "/var/lib/sextant/compiled"
"""On each node, a folder for each namespace, in which `pods.GROUP` may make folders."""
SIZE_BYTES = 32 * GIB
"""Of all compiled code of a namespace on a node, some hundred MB a model: an estimate of November 2026."""
FOLDER = f"{MODELS_PATH}/.compiled"
"""Where the engine sees its own."""

ENVIRONMENT: Mapping[str, Mapping[str, str]] = {
    "vllm": {
        "VLLM_CACHE_ROOT": "vllm",
        "TRITON_CACHE_DIR": "triton",
        "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    },
    "sglang": {
        "SGLANG_JIT_CACHE_ROOT": "sglang",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "DG_JIT_CACHE_DIR": "deep_gemm",
        "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    },
}
"""Engine to the variables by which it and its libraries are told where to keep what they compile (vLLM
0.32 `envs.py`, of which DeepGEMM's lies below its root; SGLang `docs/references/torch_compile_cache.md`;
DeepGEMM and FlashInfer, their READMEs)."""

KEEP = """\
if [ -n "$2" ]; then
  umask 077
  mkdir -p "/compiled/$2" 2>/dev/null || true
  if [ -O "/compiled/$2" ] && [ ! -L "/compiled/$2" ] && chmod 700 "/compiled/$2"; then
    ln -sfn "/compiled/$2" /models/.compiled
    echo "compiled code is kept in $2"
  else
    mkdir -p /models/.compiled
    echo "this node keeps no compiled code: its folder is not there, or $2 is another user's" >&2
  fi
fi
"""
"""`$2` is the folder of that model and image; empty: the engine compiles nothing."""


def keeps(workload: Workload) -> bool:
    """Whether its engine compiles code that can be kept."""
    return workload.kind in ENVIRONMENT and bool(workload.resource)


def folder_of(workload: Workload) -> str:
    """Name of its folder: another image's code must not be found there. Empty where nothing is kept."""
    if not keeps(workload):
        return ""
    image = hashlib.sha256(workload.image.encode()).hexdigest()[:12]
    return f"{workload.part.model}-{image}"


def compiled_environment(workload: Workload) -> dict[str, str]:
    """Variables of its engine."""
    if not keeps(workload):
        return {}
    return {name: f"{FOLDER}/{folder}" for name, folder in ENVIRONMENT[workload.kind].items()}


def compiled_mount(workload: Workload) -> tuple[Volume, ...]:
    """The node's folder in the engine's pod."""
    return (claimed(CLAIM, PATH, claim=CLAIM, read_only=False),) if keeps(workload) else ()


def compiled_claim(cluster: Cluster, namespace: str) -> tuple[Object, ...]:
    """The namespace's claim; none where nothing is kept."""
    if not any(keeps(each) for each in cluster.workloads_in(namespace)):
        return ()
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "volumeName": _volume(namespace),
        "resources": {"requests": {"storage": gibibytes(SIZE_BYTES)}},
    }
    part = cluster.part("engine", namespace=namespace)
    return (made("v1/PersistentVolumeClaim", part, spec, name=CLAIM),)


def compiled_volume(cluster: Cluster, namespace: str) -> tuple[Object, ...]:
    """The volume that stands for each node's own folder. The cluster's administrator makes it."""
    if not any(keeps(each) for each in cluster.workloads_in(namespace)):
        return ()
    spec = {
        "capacity": {"storage": gibibytes(SIZE_BYTES)},
        "accessModes": ["ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "claimRef": {"namespace": namespace, "name": CLAIM},
        "hostPath": {"path": compiled_folder(namespace), "type": "DirectoryOrCreate"},
    }
    return (cluster_wide("v1/PersistentVolume", _volume(namespace), cluster.order.name, spec),)


def compiled_folder(namespace: str) -> str:
    """Where a node keeps compiled code for that namespace."""
    return f"{NODE_FOLDER}/{namespace}"


def _volume(namespace: str) -> str:
    return dns_label(f"{namespace}-{CLAIM}")
