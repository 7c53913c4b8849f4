"""What Argo CD follows: one Application for each part of the bundle, all in one project.

The document and the images lock lie in the same repository; a commit that changes what is rendered is the
release, and its revert the way back.
"""

from __future__ import annotations

from sextant.render.containers.dockerfiles import FOLDER
from sextant.render.containers.pipelines import BRANCH
from sextant.render.dumping import yaml_file
from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.objects import Object, cluster_wide
from sextant.spec.bundle import File

NAMESPACE = "argocd"
API = "argoproj.io/v1alpha1"
PARTS = (("cluster", "-20"), ("observability", "-10"), ("tools", "-10"), ("manifests", "0"))
"""Folders, and the wave in which each is synchronised."""
RETRIES = 5


def argocd_files(cluster: Cluster) -> tuple[File, ...]:
    """Project and applications. Nothing where the document names no repository."""
    url = cluster.order.deployment.spec.delivery.repository_url
    if url is None:
        return ()
    name = cluster.order.name
    applications = [_application(cluster, folder, wave, url) for folder, wave in PARTS]
    return (yaml_file("argocd/applications.yaml", _project(cluster, name, url), *applications),)


def _placed(kind: str, name: str, instance: str, spec: Object) -> Object:
    body = cluster_wide(f"{API}/{kind}", name, instance, spec)
    body["metadata"]["namespace"] = NAMESPACE
    return body


def _project(cluster: Cluster, name: str, url: str) -> Object:
    server = "https://kubernetes.default.svc"
    spec = {
        "description": f"Sextant: {name}",
        "sourceRepos": [url],
        "destinations": [{"server": server, "namespace": "*"}],
        "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
    }
    return _placed("AppProject", name, name, spec)


def _application(cluster: Cluster, folder: str, wave: str, url: str) -> Object:
    name = cluster.order.name
    spec = {
        "project": name,
        "source": {"repoURL": url, "targetRevision": BRANCH, "path": f"{FOLDER}/{folder}"},
        "destination": {"server": "https://kubernetes.default.svc", "namespace": cluster.namespace},
        "syncPolicy": {
            "automated": {"prune": True, "selfHeal": True},
            "syncOptions": ["ServerSideApply=true", "RespectIgnoreDifferences=true", "PruneLast=true"],
            "retry": {"limit": RETRIES, "backoff": {"duration": "30s", "factor": 2, "maxDuration": "10m"}},
        },
        # Argo Rollouts writes these while a version takes over.
        "ignoreDifferences": [
            {
                "group": "networking.istio.io",
                "kind": "VirtualService",
                "jqPathExpressions": [".spec.http[].route[].weight"],
            },
            {
                "group": "networking.istio.io",
                "kind": "DestinationRule",
                "jqPathExpressions": ['.spec.subsets[].labels["rollouts-pod-template-hash"]'],
            },
            {
                "group": "",
                "kind": "Service",
                "jqPathExpressions": ['.spec.selector["rollouts-pod-template-hash"]'],
            },
        ],
    }
    body = _placed("Application", f"{name}-{folder}", name, spec)
    body["metadata"]["annotations"] = {"argocd.argoproj.io/sync-wave": wave}
    body["metadata"]["finalizers"] = ["resources-finalizer.argocd.argoproj.io"]
    return body
