"""The service for many tenants: pools apart, promises watched, callers let in."""

from __future__ import annotations

import pytest
from tests.render.orders import EMBEDDED, order
from tests.render.schema_check import objects_of, of_kind
from tests.render.test_kubernetes_bundles import POOLED

from sextant.base.errors import Unsupported
from sextant.render import render

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


def test_a_fast_burn_calls_somebody_and_a_slow_one_does_not() -> None:
    rules = next(body for body in of_kind(ALL, "PrometheusRule") if body["metadata"]["name"] == "objectives")
    alerts = rules["spec"]["groups"][0]["rules"]
    severities = [
        each["labels"]["severity"] for each in alerts if each["alert"].endswith("AvailabilityBudget")
    ]
    assert severities == ["critical", "critical", "warning"]
    assert "> 0.0144 and" in alerts[0]["expr"]
    assert "[1h]" in alerts[0]["expr"] and "[5m]" in alerts[0]["expr"]


def test_the_agreement_is_a_placeholder_and_says_so() -> None:
    text = next(file.content.decode() for file in BUNDLE.files if file.path == "agreements/data-use.md")
    assert "A placeholder. It is no legal text" in text
    assert any("data use agreement" in need.name for need in BUNDLE.needs)
