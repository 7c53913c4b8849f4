"""The tenants' portal of a cluster from outside: a name of its own, behind Envoy Gateway, and nothing else of
the admin API.

Three walls, each for itself: the route names the portal's paths alone; the network policy lets in the proxies
of this very Gateway; and control answers nothing else under that name (`control.door`). The proxy limits how
fast one address may ask before control is reached.
See gateway-api.sigs.k8s.io (BackendTLSPolicy), gateway.envoyproxy.io (BackendTrafficPolicy), November 2026.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from sextant.base.errors import Unsupported
from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.gateway import AGREEMENT_SECRET, CONTROL_PORT, secret_need
from sextant.render.kubernetes.identity import CA_SECRET, CERTIFICATE_HOURS, OWN_CA, RENEW_HOURS
from sextant.render.kubernetes.network import PROMETHEUS_NAMESPACE
from sextant.render.kubernetes.objects import Object, made
from sextant.render.kubernetes.watching import SCRAPE_PROTOCOLS
from sextant.spec.bundle import Need, Step
from sextant.spec.control_sections import CALLBACK
from sextant.spec.portal_section import Portal

FOLDER = "/portal"
"""All pages and their files are below it."""
PORTAL_TLS = "portal-tls"
METRICS_SECRET = "admin-metrics"
ENVOY_NAMESPACE = "envoy-gateway-system"
"""Where Envoy Gateway runs its proxies, unless it is told to run them beside the Gateway."""
OWNER = "gateway.envoyproxy.io/owning-gateway-name"
OWNER_NAMESPACE = "gateway.envoyproxy.io/owning-gateway-namespace"
"""Labels of the proxies of one Gateway."""
REQUESTS_PER_S = 20
POSTS_PER_MINUTE = 30
"""Of one address through one proxy: a page with its files, and forms."""
REFUSALS_PER_H = 50
"""Sign-ups beyond a bound, from a mail domain that may not, or with a wrong token: somebody tries."""


def portal_host(cluster: Cluster) -> str:
    """The host name of the portal. Raises Unsupported where people could not reach it, or would all seem to
    come from one address."""
    portal = cluster.order.deployment.spec.portal
    parts = urlsplit(portal.url or "")
    if portal.url is None or parts.scheme != "https" or parts.port is not None:
        raise Unsupported(
            f"spec.portal.url is {portal.url or 'not set'}, and tenants' people come to the portal from "
            f"outside the cluster; write its public address, without a port, as `url: https://portal.example.com`",
            field="spec.portal.url",
        )
    host = parts.hostname or ""
    if host == cluster.order.deployment.spec.delivery.ingress_host:
        raise Unsupported(
            f"spec.portal.url has the host of the API, {host}, which leads to the gateway; give the portal a "
            f"name of its own",
            field="spec.portal.url",
        )
    if portal.sign_up == "open" and not portal.trusted_proxies:
        raise Unsupported(
            "spec.portal.trusted_proxies is not set and signing up is open: every stranger would have the "
            "address of the proxy in front, and share one bound; write the cluster's pod network, as "
            "`trusted_proxies: [10.244.0.0/16]`",
            field="spec.portal.trusted_proxies",
        )
    return host


def portal_objects(cluster: Cluster) -> tuple[Object, ...]:
    """The way in from outside, and the metrics of control."""
    portal, host = cluster.order.deployment.spec.portal, portal_host(cluster)
    part = cluster.part("portal")
    certificate = {
        "secretName": PORTAL_TLS,
        "dnsNames": [host],
        "duration": f"{CERTIFICATE_HOURS}h0m0s",
        "renewBefore": f"{RENEW_HOURS}h0m0s",
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "usages": ["digital signature", "server auth"],
        "issuerRef": {"name": OWN_CA, "kind": "Issuer", "group": "cert-manager.io"},
    }
    listener = {
        "name": "https",
        "port": 443,
        "protocol": "HTTPS",
        "hostname": host,
        "tls": {"mode": "Terminate", "certificateRefs": [{"kind": "Secret", "name": PORTAL_TLS}]},
        "allowedRoutes": {"namespaces": {"from": "Same"}},
    }
    gateway = {"gatewayClassName": portal.gateway_class, "listeners": [listener]}
    return (
        made("cert-manager.io/v1/Certificate", part, certificate, name=PORTAL_TLS),
        made("gateway.networking.k8s.io/v1/Gateway", part, gateway),
        made("gateway.networking.k8s.io/v1/HTTPRoute", part, _route(cluster, host)),
        made("gateway.networking.k8s.io/v1/BackendTLSPolicy", part, _to_control(cluster)),
        made("gateway.envoyproxy.io/v1alpha1/ClientTrafficPolicy", part, _clients()),
        made("gateway.envoyproxy.io/v1alpha1/BackendTrafficPolicy", part, _pace()),
        _policy(cluster),
        *([_monitor(cluster)] if portal.sign_up == "open" else []),
    )


def _route(cluster: Cluster, host: str) -> Object:
    """The portal's paths, and no other. The bare name leads to the portal."""
    home = {
        "matches": [{"path": {"type": "Exact", "value": "/"}}],
        "filters": [
            {
                "type": "RequestRedirect",
                "requestRedirect": {
                    "path": {"type": "ReplaceFullPath", "replaceFullPath": FOLDER},
                    "statusCode": 302,
                },
            }
        ],
    }
    paths = [{"path": {"type": "PathPrefix", "value": FOLDER}}]
    oidc = cluster.order.deployment.spec.control.oidc
    back = urlsplit(oidc.redirect_url if oidc is not None else "")
    if (back.hostname, back.path) == (host, CALLBACK):
        paths.append({"path": {"type": "Exact", "value": CALLBACK}})
    lasting = [{"name": "Strict-Transport-Security", "value": "max-age=31536000"}]
    pages = {
        "matches": paths,
        "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": lasting}}],
        "backendRefs": [{"name": "admin", "port": 443}],
        "timeouts": {"request": "30s"},
    }
    return {"parentRefs": [{"name": "portal"}], "hostnames": [host], "rules": [home, pages]}


def _to_control(cluster: Cluster) -> Object:
    """TLS to the pods, whose certificate is checked."""
    authority = {"group": "", "kind": "Secret", "name": CA_SECRET}
    return {
        "targetRefs": [{"group": "", "kind": "Service", "name": "admin"}],
        "validation": {
            "caCertificateRefs": [authority],
            "hostname": f"admin.{cluster.namespace}.svc",
        },
    }


def _clients() -> Object:
    """TLS 1.3 alone, and bounds for those who hold connections open."""
    return {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "portal"}],
        "tls": {"minVersion": "1.3"},
        "connection": {"connectionLimit": {"value": 10_000}},
        "timeout": {"http": {"requestReceivedTimeout": "10s", "idleTimeout": "60s"}},
    }


def _pace() -> Object:
    """How fast one address may ask, in each proxy; control counts sign-ups exactly, for all of them."""
    rules = []
    for everybody in ("0.0.0.0/0", "::/0"):
        each = {"sourceCIDR": {"type": "Distinct", "value": everybody}}
        posts = {**each, "methods": [{"value": "POST"}]}
        rules += [
            {"clientSelectors": [each], "limit": {"requests": REQUESTS_PER_S, "unit": "Second"}},
            {"clientSelectors": [posts], "limit": {"requests": POSTS_PER_MINUTE, "unit": "Minute"}},
        ]
    return {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "portal"}],
        "rateLimit": {"type": "Local", "local": {"rules": rules}},
    }


def _policy(cluster: Cluster) -> Object:
    """The proxies of this Gateway to control, and where it is watched Prometheus."""
    proxies = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ENVOY_NAMESPACE}},
        "podSelector": {"matchLabels": {OWNER: "portal", OWNER_NAMESPACE: cluster.namespace}},
    }
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": PROMETHEUS_NAMESPACE}}}
    watched = cluster.order.deployment.spec.portal.sign_up == "open"
    ingress = {
        "from": [proxies, *([prometheus] if watched else [])],
        "ports": [{"protocol": "TCP", "port": CONTROL_PORT}],
    }
    spec = {
        "podSelector": {"matchLabels": cluster.part("gateway").selector},
        "policyTypes": ["Ingress"],
        "ingress": [ingress],
    }
    return made("networking.k8s.io/v1/NetworkPolicy", cluster.part("portal"), spec)


def _monitor(cluster: Cluster) -> Object:
    """Reads control's metrics, which need a service token."""
    endpoint = {
        "port": "admin",
        "scheme": "https",
        "path": "/metrics",
        "interval": "30s",
        "authorization": {"type": "Bearer", "credentials": {"name": METRICS_SECRET, "key": "token"}},
        "tlsConfig": {
            "ca": {"secret": {"name": CA_SECRET, "key": "ca.crt"}},
            "serverName": f"admin.{cluster.namespace}.svc",
        },
    }
    spec = {
        "selector": {"matchLabels": cluster.part("gateway").selector},
        "endpoints": [endpoint],
        "scrapeProtocols": SCRAPE_PROTOCOLS,
        "sampleLimit": 50_000,
    }
    return made("monitoring.coreos.com/v1/ServiceMonitor", cluster.part("portal"), spec, name="admin")


def sign_up_alerts(cluster: Cluster) -> list[Object]:
    """Signs that signing up is abused, or does not work; none where it is closed."""
    portal = cluster.order.deployment.spec.portal
    if portal.sign_up != "open":
        return []
    many = max(1, portal.sign_ups_per_day // 4)
    return [
        _alert(
            "SextantSignUpsRefused",
            f"{_counted(cluster, 'limited|domain|refused', '1h')} > {REFUSALS_PER_H}",
            f"More than {REFUSALS_PER_H} sign-ups were refused within an hour: somebody tries.",
        ),
        _alert(
            "SextantSignUpsMany",
            f"{_counted(cluster, 'confirmed', '1h')} > {many}",
            f"More than {many} tenants signed up within an hour, each with what a new one is given.",
        ),
        _alert(
            "SextantSignUpsBroken",
            f"{_counted(cluster, 'unmailed|unusable', '15m')} > 0",
            "Strangers cannot sign up: no e-mail leaves, or the tier or plan of spec.portal is not there.",
        ),
    ]


def _counted(cluster: Cluster, outcomes: str, window: str) -> str:
    chosen = f'outcome=~"{outcomes}",namespace="{cluster.namespace}",service="admin"'
    return f"sum(increase(sextant_control_sign_ups_total{{{chosen}}}[{window}]))"


def _alert(name: str, expr: str, summary: str) -> Object:
    return {
        "alert": name,
        "expr": expr,
        "labels": {"severity": "warning"},
        "annotations": {"summary": summary},
    }


def portal_needs(cluster: Cluster) -> tuple[Need, ...]:
    """What must be there for the portal."""
    host, namespace = portal_host(cluster), cluster.namespace
    portal = cluster.order.deployment.spec.portal
    found = [
        Need(
            kind="cluster",
            name="Envoy Gateway 1.8 or newer, with Gateway API 1.4 or newer",
            why=f"leads to the portal, through the GatewayClass `{portal.gateway_class}` "
            "(spec.portal.gateway_class); its proxies run in its own namespace",
            check=f"kubectl get gatewayclass {portal.gateway_class}",
        ),
        Need(
            kind="network",
            name=f"DNS name {host}",
            why="tenants' people reach the Gateway `portal` under it",
            check=f"kubectl -n {namespace} get gateway portal; getent hosts {host}",
        ),
        Need(
            kind="account",
            name="A certificate for it that browsers trust",
            why=f"set `issuerRef` of the certificate `{PORTAL_TLS}` in manifests/85-portal.yaml",
        ),
    ]
    if portal.sign_up == "open":
        why = "Prometheus reads control's metrics with it; made on the way"
        found.append(secret_need(namespace, METRICS_SECRET, ("token",), why))
    return tuple(found)


def portal_steps(cluster: Cluster) -> tuple[Step, ...]:
    """What is typed once the gateway serves."""
    portal, namespace = cluster.order.deployment.spec.portal, cluster.namespace
    steps = [
        Step(
            "Look at the portal.",
            (
                f"kubectl -n {namespace} wait --for=condition=Programmed --timeout=300s gateway/portal",
                f"curl --fail --silent --show-error --output /dev/null {portal.url}{FOLDER}",
                f'test "$(curl --silent --output /dev/null --write-out "%{{http_code}}" '
                f'{portal.url}/v1/tenants)" = 404',
            ),
            "The last command shows that the admin API is not to be had there.",
        )
    ]
    if portal.sign_up == "open":
        steps.append(
            Step(
                "Let Prometheus read control's metrics.",
                (
                    f"kubectl -n {namespace} exec deploy/gateway -c gateway -- sextant token create "
                    f"prometheus --role auditor",
                    f"kubectl -n {namespace} create secret generic {METRICS_SECRET} "
                    f"--from-file=token=/dev/stdin",
                ),
                "The second command reads the token that the first one showed: paste it and press Ctrl-D "
                "twice.",
            )
        )
    return tuple(steps)


def portal_notes(portal: Portal) -> tuple[str, ...]:
    """What the operator should know of it."""
    opened = "Nobody signs up by themselves (spec.portal.sign_up: closed): people come by invitation."
    if portal.sign_up == "open":
        given = f", with {portal.credit} of credit on the plan `{portal.plan}`" if portal.plan else ""
        opened = (
            f"Strangers may sign up: at most {portal.sign_ups_per_day} a day, "
            f"{portal.sign_ups_per_source_per_day} from one address, on the tier `{portal.tier}`{given}."
        )
    agreed = "No agreement is asked for: spec.portal.agreement is not set."
    if portal.agreement is not None:
        agreed = (
            f"The agreement {portal.agreement.version} is the Secret `{AGREEMENT_SECRET}`; another text "
            f"takes another version in the document once a tenant has accepted it."
        )
    return (
        opened,
        agreed,
        "Sessions, sign-ups and acceptances are in PostgreSQL: any replica answers the next request.",
        "The proxy's pace limits hold in each of its replicas for itself; bounds of sign-ups hold for all.",
    )
