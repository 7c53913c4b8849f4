"""The service for many tenants: pools apart, promises watched, callers let in."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from tests.render.orders import EMBEDDED, order
from tests.render.schema_check import objects_of, of_kind
from tests.render.test_kubernetes_bundles import OPEN_PORTAL, POOLED, PORTAL, SMTP
from typer.main import get_command

from sextant.base.errors import Unsupported
from sextant.cli.main import app
from sextant.render import render
from sextant.spec.bundle import Bundle
from sextant.spec.document import parse_document

BUNDLE = render(order("saas", **POOLED))
ALL = objects_of(BUNDLE)


def test_a_pool_has_a_namespace_quota_and_key_of_its_own() -> None:
    namespaces = [body["metadata"]["name"] for body in of_kind(ALL, "Namespace")]
    assert namespaces == ["sextant", "sextant-professional"]
    engine = next(
        body for body in of_kind(ALL, "Deployment") if body["metadata"]["namespace"] == "sextant-professional"
    )
    variables = engine["spec"]["template"]["spec"]["containers"][0]["env"]
    secrets = [each["valueFrom"]["secretKeyRef"]["name"] for each in variables if "valueFrom" in each]
    assert secrets == ["engine-key-professional"]
    quota = next(
        body
        for body in of_kind(ALL, "ResourceQuota")
        if body["metadata"]["namespace"] == "sextant-professional"
    )
    assert int(quota["spec"]["hard"]["requests.nvidia.com/gpu"]) >= 1


def test_a_pools_engine_lets_the_gateway_in_and_nobody_elses_pods() -> None:
    policy = next(
        body
        for body in of_kind(ALL, "NetworkPolicy")
        if body["metadata"]["namespace"] == "sextant-professional"
        and body["metadata"]["name"].startswith("engine")
    )
    (rule,) = policy["spec"]["ingress"]
    who = [each["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for each in rule["from"]]
    assert who == ["sextant", "monitoring"]
    assert "podSelector" in rule["from"][0]
    assert policy["spec"]["egress"] == []


def test_callers_from_outside_reach_the_gateway() -> None:
    service = next(body for body in of_kind(ALL, "Service") if body["metadata"]["name"] == "gateway")
    assert service["spec"]["type"] == "LoadBalancer"
    certificate = next(
        body for body in of_kind(ALL, "Certificate") if body["metadata"]["name"] == "gateway-tls"
    )
    assert certificate["spec"]["dnsNames"][0] == "api.example.com"


def test_a_service_that_nobody_could_call_is_refused() -> None:
    with pytest.raises(Unsupported, match="ingress_host"):
        render(order("saas", **EMBEDDED))


INGRESS = {"ingress_host": "api.example.com"}


@pytest.mark.parametrize(
    ("portal", "said"),
    [
        ({}, "not set"),
        ({"url": "http://127.0.0.1:8001"}, "public address"),
        ({"url": "https://portal.example.com:8443"}, "without a port"),
        ({"url": "https://api.example.com"}, "a name of its own"),
        ({**OPEN_PORTAL, "trusted_proxies": []}, "the cluster's pod network"),
    ],
)
def test_a_portal_that_people_could_not_reach_is_refused(portal: dict[str, Any], said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        render(order("saas", **EMBEDDED, delivery=INGRESS, portal=portal, alerts={"smtp": SMTP}))


def routed(bundle: Bundle) -> set[tuple[str, str]]:
    """(type, path) of all that leads from outside to a service of the bundle."""
    (route,) = of_kind(objects_of(bundle), "HTTPRoute")
    return {
        (match["path"]["type"], match["path"]["value"])
        for rule in route["spec"]["rules"]
        if rule.get("backendRefs")
        for match in rule["matches"]
    }


def test_nothing_but_the_portal_is_reached_from_outside() -> None:
    assert routed(BUNDLE) == {("PathPrefix", "/portal")}
    (route,) = of_kind(ALL, "HTTPRoute")
    assert route["spec"]["hostnames"] == ["portal.example.com"]
    oidc = {"issuer": "https://id.example.com", "client_id": "x"}
    here = {**oidc, "redirect_url": "https://portal.example.com/v1/oidc/callback"}
    elsewhere = {**oidc, "redirect_url": "https://admin.example.com/v1/oidc/callback"}
    for chosen, more in ((here, {"/v1/oidc/callback"}), (elsewhere, set())):
        control = {"oidc": chosen}
        bundle = render(order("saas", **EMBEDDED, delivery=INGRESS, portal=PORTAL, control=control))
        assert routed(bundle) == {("PathPrefix", "/portal"), *(("Exact", path) for path in more)}
    services = {body["metadata"]["name"]: body["spec"] for body in of_kind(ALL, "Service")}
    assert "type" not in services["admin"]


def test_the_proxies_of_this_gateway_alone_come_to_control() -> None:
    policy = next(body for body in of_kind(ALL, "NetworkPolicy") if body["metadata"]["name"] == "portal")
    (rule,) = policy["spec"]["ingress"]
    proxies, prometheus = rule["from"]
    assert proxies["podSelector"]["matchLabels"] == {
        "gateway.envoyproxy.io/owning-gateway-name": "portal",
        "gateway.envoyproxy.io/owning-gateway-namespace": "sextant",
    }
    assert "namespaceSelector" in proxies and "namespaceSelector" in prometheus
    assert rule["ports"] == [{"protocol": "TCP", "port": 8001}]


def test_the_way_to_control_is_tls_whose_certificate_is_checked() -> None:
    (tls,) = of_kind(ALL, "BackendTLSPolicy")
    (target,) = tls["spec"]["targetRefs"]
    certified = next(
        body for body in of_kind(ALL, "Certificate") if body["metadata"]["name"] == "gateway-tls"
    )
    assert target["name"] == "admin"
    assert tls["spec"]["validation"]["hostname"] in certified["spec"]["dnsNames"]
    (clients,) = of_kind(ALL, "ClientTrafficPolicy")
    assert clients["spec"]["tls"]["minVersion"] == "1.3"


def test_what_the_replicas_run_knows_the_portal_and_its_agreement() -> None:
    document = next(body["data"]["sextant.yaml"] for body in ALL if "sextant.yaml" in body.get("data", {}))
    portal = parse_document(document).spec.portal
    assert portal.agreement is not None
    assert portal.agreement.file == "/etc/sextant/agreement/agreement.md"
    assert (portal.api_url, portal.sign_up) == ("https://api.example.com/v1", "open")
    gateway = next(body for body in of_kind(ALL, "Deployment") if body["metadata"]["name"] == "gateway")
    pod = gateway["spec"]["template"]["spec"]
    volume = next(each for each in pod["volumes"] if each["name"] == "agreement")
    assert volume["secret"]["secretName"] == "portal-agreement"
    needed = {need.name for need in BUNDLE.needs}
    assert {"Secret sextant/portal-agreement", "Secret sextant/admin-metrics"} <= needed
    assert any("portal-agreement --from-file=agreement.md" in line for line in typed(BUNDLE))


def typed(bundle: Bundle) -> list[str]:
    return [command for step in bundle.install for command in step.commands]


def test_the_mail_server_can_be_reached_and_nothing_else_of_its_port() -> None:
    policy = next(
        body
        for body in of_kind(ALL, "NetworkPolicy")
        if body["metadata"]["name"] == "gateway" and body["metadata"]["namespace"] == "sextant"
    )
    assert {"ports": [{"protocol": "TCP", "port": 587}]} in policy["spec"]["egress"]


def test_a_closed_portal_asks_for_less() -> None:
    bundle = render(order("saas", **EMBEDDED, delivery=INGRESS, portal=PORTAL))
    objects = objects_of(bundle)
    assert not [body for body in of_kind(objects, "ServiceMonitor") if body["metadata"]["name"] == "admin"]
    rules = next(
        body for body in of_kind(objects, "PrometheusRule") if body["metadata"]["name"] == "objectives"
    )
    assert not any("SignUps" in each["alert"] for each in rules["spec"]["groups"][1]["rules"])
    assert "Secret sextant/admin-metrics" not in {need.name for need in bundle.needs}
    assert any("people come by invitation" in note for note in bundle.notes)


def test_a_fast_burn_calls_somebody_and_a_slow_one_does_not() -> None:
    rules = next(body for body in of_kind(ALL, "PrometheusRule") if body["metadata"]["name"] == "objectives")
    alerts = rules["spec"]["groups"][0]["rules"]
    severities = [
        each["labels"]["severity"] for each in alerts if each["alert"].endswith("AvailabilityBudget")
    ]
    assert severities == ["critical", "critical", "warning"]
    assert "> 0.0144 and" in alerts[0]["expr"]
    assert "[1h]" in alerts[0]["expr"] and "[5m]" in alerts[0]["expr"]


def test_shared_engines_sleep_and_dedicated_pools_do_not() -> None:
    scaled = {
        body["metadata"]["namespace"]: body["spec"]
        for body in of_kind(ALL, "ScaledObject")
        if body["metadata"]["name"].startswith("engine")
    }
    assert scaled["sextant"]["idleReplicaCount"] == 0
    assert "idleReplicaCount" not in scaled["sextant-professional"]
    assert scaled["sextant-professional"]["minReplicaCount"] >= 1
    names = {each["name"] for each in scaled["sextant"]["triggers"]}
    assert "asked" in names and "asked" not in {
        each["name"] for each in scaled["sextant-professional"]["triggers"]
    }


def test_the_steps_of_business_are_commands_that_there_are() -> None:
    commands = [
        shlex.split(command.partition(" -- sextant ")[2])
        for step in BUNDLE.install
        for command in step.commands
        if " -- sextant " in command
    ]
    assert len(commands) >= 10
    for words in commands:
        command, rest = get_command(app), words
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        assert not hasattr(command, "commands"), words
        command.make_context("sextant", list(rest))  # raises for an argument or option that it has not


def test_signs_of_abuse_are_watched_and_limits_shared() -> None:
    rules = next(body for body in of_kind(ALL, "PrometheusRule") if body["metadata"]["name"] == "objectives")
    names = {each["alert"] for each in rules["spec"]["groups"][1]["rules"]}
    assert names == {
        "SextantLimitsRunAgainst",
        "SextantStrangers",
        "SextantMalformed",
        "SextantSignUpsRefused",
        "SextantSignUpsMany",
        "SextantSignUpsBroken",
    }
    document = next(body["data"]["sextant.yaml"] for body in ALL if "sextant.yaml" in body.get("data", {}))
    # One tenant's limit is one limit, whichever replica is asked.
    assert parse_document(document).spec.limits is not None


def test_the_agreement_is_a_placeholder_and_says_so_until_there_is_one() -> None:
    text = next(file.content.decode() for file in BUNDLE.files if file.path == "agreements/data-use.md")
    assert "A placeholder. It is no legal text" in text
    without = render(order("saas", **EMBEDDED, delivery=INGRESS, portal=PORTAL))
    assert any("data use agreement" in need.name for need in without.needs)
    assert not any("data use agreement" in need.name for need in BUNDLE.needs)


def accelerators_of(bundle: Bundle) -> dict[str, int]:
    """What each namespace's quota allows."""
    return {
        body["metadata"]["namespace"]: int(body["spec"]["hard"]["requests.nvidia.com/gpu"])
        for body in of_kind(objects_of(bundle), "ResourceQuota")
    }


def pooled(count: int, **more: Any) -> Bundle:
    sites = [{"name": "hall-1", "accelerators": [{"name": "L40S", "count": count}]}]
    return render(order("saas", **{**POOLED, "sites": sites, **more}))


def test_pools_without_shares_grow_into_what_there_is_and_no_further() -> None:
    assert accelerators_of(pooled(8)) == {"sextant": 4, "sextant-professional": 4}
    assert accelerators_of(pooled(3)) == {"sextant": 2, "sextant-professional": 1}
    most = {
        body["metadata"]["namespace"]: body["spec"]["maxReplicaCount"]
        for body in of_kind(objects_of(pooled(3)), "ScaledObject")
        if body["metadata"]["name"].startswith("engine")
    }
    assert most == {"sextant": 2, "sextant-professional": 1}


def test_what_one_cannot_use_the_other_may() -> None:
    few = {"scaling": {"max_replicas": 2}}
    assert accelerators_of(pooled(8, **few)) == {"sextant": 2, "sextant-professional": 2}


def test_a_pool_without_a_share_beside_one_with_keeps_what_is_planned() -> None:
    delivery = {"ingress_host": "api.example.com", "quotas": [{"name": "risk", "percent": 100}]}
    found = accelerators_of(pooled(8, delivery=delivery))
    assert found == {"sextant": 1, "sextant-professional": 1, "sextant-risk": 6}


def test_more_replicas_than_accelerators_are_refused_with_the_numbers() -> None:
    three = {"min_replicas": 3}
    said = r"has 4 nvidia\.com/gpu, .* planned on 6 \(3 in sextant, 3 in sextant-professional\)"
    with pytest.raises(Unsupported, match=said):
        pooled(4, scaling=three)
    assert sum(accelerators_of(pooled(6, scaling=three)).values()) == 6
    grows = {**INGRESS, "node_scaling": "karpenter"}
    assert sum(accelerators_of(pooled(4, scaling=three, delivery=grows)).values()) >= 6
