"""Who is who on the cluster: service accounts, roles, certificates, and SPIFFE ids."""

from __future__ import annotations

from collections.abc import Mapping

from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.objects import ROLE_LABEL, Object, cluster_wide, made

TLS_SECRET = "gateway-tls"
CA_SECRET = "sextant-ca"
SELF_SIGNED, OWN_CA = "sextant-self-signed", "sextant-ca"
CERTIFICATE_HOURS, RENEW_HOURS = 8760, 1440
"""A year, renewed 60 days before its end: pods read a certificate once, when they start."""
CA_HOURS = 43_800
OPERATORS = "sextant-operators"
"""Group of people, as the cluster's sign-in calls it, who may look at and restart the deployment."""

ID_TEMPLATE = "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}"
"""Whatever the template makes of a pod, `spiffe_id` must say too."""

_LOOK = ["get", "list", "watch"]


def service_accounts(cluster: Cluster, namespace: str, components: tuple[str, ...]) -> tuple[Object, ...]:
    """One for each kind of pod. None has a role, and no pod is handed its token."""
    found = []
    for component in components:
        body = made("v1/ServiceAccount", cluster.part(component, namespace=namespace), name=component)
        body["automountServiceAccountToken"] = False
        found.append(body)
    return tuple(found)


def roles(cluster: Cluster) -> tuple[Object, ...]:
    """What people may do: operators everywhere, each line of business in its own namespace. Nobody is given
    secrets."""
    found: list[Object] = []
    for namespace in cluster.namespaces:
        found.extend(_role(cluster, namespace, OPERATORS))
    for pool in cluster.pools:
        found.extend(_role(cluster, cluster.of_pool(pool), f"sextant-{pool}"))
    return tuple(found)


def _role(cluster: Cluster, namespace: str, group: str) -> tuple[Object, Object]:
    part = cluster.part("operators", namespace=namespace)
    role = made("rbac.authorization.k8s.io/v1/Role", part, name=group)
    role["rules"] = [
        _rule("", ["pods", "pods/log", "services", "events", "persistentvolumeclaims", "configmaps"], _LOOK),
        _rule("", ["pods"], ["delete"]),
        _rule("apps", ["deployments", "daemonsets", "replicasets"], [*_LOOK, "patch"]),
        _rule("leaderworkerset.x-k8s.io", ["leaderworkersets"], [*_LOOK, "patch"]),
        _rule("batch", ["jobs"], _LOOK),
        _rule("keda.sh", ["scaledobjects"], _LOOK),
        _rule("autoscaling", ["horizontalpodautoscalers"], _LOOK),
    ]
    binding = made("rbac.authorization.k8s.io/v1/RoleBinding", part, name=group)
    binding["subjects"] = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}]
    binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": group}
    return role, binding


def _rule(group: str, kinds: list[str], verbs: list[str]) -> Mapping[str, list[str]]:
    return {"apiGroups": [group], "resources": kinds, "verbs": verbs}


def certificates(cluster: Cluster, names: tuple[str, ...]) -> tuple[Object, ...]:
    """A certificate authority of the namespace's own, and the gateway's certificate from it.

    To have another authority sign, change `issuerRef` of the certificate `gateway-tls`."""
    part = cluster.part("certificates")
    authority = {
        "isCA": True,
        "commonName": f"{cluster.order.name} {cluster.namespace}",
        "secretName": CA_SECRET,
        "duration": f"{CA_HOURS}h0m0s",
        "privateKey": {"algorithm": "ECDSA", "size": 256},
        "issuerRef": {"name": SELF_SIGNED, "kind": "Issuer", "group": "cert-manager.io"},
    }
    leaf = {
        "secretName": TLS_SECRET,
        "dnsNames": list(names),
        "duration": f"{CERTIFICATE_HOURS}h0m0s",
        "renewBefore": f"{RENEW_HOURS}h0m0s",
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "usages": ["digital signature", "server auth"],
        "issuerRef": {"name": OWN_CA, "kind": "Issuer", "group": "cert-manager.io"},
    }
    return (
        made("cert-manager.io/v1/Issuer", part, {"selfSigned": {}}, name=SELF_SIGNED),
        made("cert-manager.io/v1/Certificate", part, authority, name=CA_SECRET),
        made("cert-manager.io/v1/Issuer", part, {"ca": {"secretName": CA_SECRET}}, name=OWN_CA),
        made("cert-manager.io/v1/Certificate", part, leaf, name=TLS_SECRET),
    )


def spiffe_id(cluster: Cluster, namespace: str, account: str) -> str:
    """Who a pod with that service account is, in the deployment's trust domain."""
    return f"spiffe://{cluster.trust_domain}/ns/{namespace}/sa/{account}"


def agent_socket(cluster: Cluster) -> str:
    """Path of the SPIRE agent's socket inside a pod."""
    spiffe = cluster.order.deployment.spec.security.spiffe
    assert spiffe is not None, "only for deployments with SPIFFE ids"
    return spiffe.workload_api.removeprefix("unix://")


def agent_folder(cluster: Cluster) -> str:
    """What the CSI driver mounts: the folder of that socket."""
    return agent_socket(cluster).rpartition("/")[0]


def spiffe_ids(cluster: Cluster) -> tuple[Object, ...]:
    """Registers who the gateway is and who the engines are, for SPIRE's controller manager. Neither gets a
    name for hosts: both are known by their ids alone."""
    spiffe = cluster.order.deployment.spec.security.spiffe
    assert spiffe is not None, "only for deployments with SPIFFE ids"
    engines = sorted({each.part.namespace for each in cluster.workloads})
    found = [_registered(cluster, "gateway", [cluster.namespace], {})]
    if engines:
        found.append(_registered(cluster, "engine", engines, {ROLE_LABEL: "leader"}))
    for each in found:
        if spiffe.class_name is not None:
            each["spec"]["className"] = spiffe.class_name
    return tuple(found)


def _registered(cluster: Cluster, component: str, namespaces: list[str], labels: Mapping[str, str]) -> Object:
    values = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces}
    chosen = {
        "app.kubernetes.io/instance": cluster.order.name,
        "app.kubernetes.io/component": component,
        **labels,
    }
    spec = {
        "spiffeIDTemplate": ID_TEMPLATE,
        "namespaceSelector": {"matchExpressions": [values]},
        "podSelector": {"matchLabels": chosen},
        "ttl": "1h",
    }
    name = f"{cluster.namespace}-{component}"
    return cluster_wide("spire.spiffe.io/v1alpha1/ClusterSPIFFEID", name, cluster.order.name, spec)
