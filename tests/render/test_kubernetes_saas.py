"""The service for many tenants: pools apart, promises watched, callers let in."""

from __future__ import annotations

import shlex

import pytest
from tests.render.orders import EMBEDDED, order
from tests.render.schema_check import objects_of, of_kind
from tests.render.test_kubernetes_bundles import POOLED
from typer.main import get_command

from sextant.base.errors import Unsupported
from sextant.cli.main import app
from sextant.render import render
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
    typed = [
        shlex.split(command.partition(" -- sextant ")[2])
        for step in BUNDLE.install
        for command in step.commands
        if " -- sextant " in command
    ]
    assert len(typed) >= 9
    for words in typed:
        command, rest = get_command(app), words
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        assert not hasattr(command, "commands"), words
        command.make_context("sextant", list(rest))  # raises for an argument or option that it has not


def test_signs_of_abuse_are_watched_and_limits_shared() -> None:
    rules = next(body for body in of_kind(ALL, "PrometheusRule") if body["metadata"]["name"] == "objectives")
    names = {each["alert"] for each in rules["spec"]["groups"][1]["rules"]}
    assert names == {"SextantLimitsRunAgainst", "SextantStrangers", "SextantMalformed"}
    document = next(body["data"]["sextant.yaml"] for body in ALL if "sextant.yaml" in body.get("data", {}))
    # One tenant's limit is one limit, whichever replica is asked.
    assert parse_document(document).spec.limits is not None


def test_the_agreement_is_a_placeholder_and_says_so() -> None:
    text = next(file.content.decode() for file in BUNDLE.files if file.path == "agreements/data-use.md")
    assert "A placeholder. It is no legal text" in text
    assert any("data use agreement" in need.name for need in BUNDLE.needs)
