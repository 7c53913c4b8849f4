"""Bundles whose gateway and engines know each other by SPIFFE ids.

Two files are held to what was reviewed; to write them anew: `SEXTANT_WRITE_GOLDEN=1 pytest` with this file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.render.orders import DISTILLED, EMBEDDED, R1, order
from tests.render.schema_check import faults_among, faults_of, objects_of, of_kind
from tests.render.test_kubernetes_saas import POOLED

from sextant.base.errors import Unsupported
from sextant.render import render
from sextant.spec.bundle import Bundle
from sextant.spec.document import parse_document
from sextant.spec.engine_sections import RemoteEngine

GOLDEN = Path(__file__).parent / "golden" / "identities"
COMPOSE = {**EMBEDDED, "delivery": {"orchestration": "compose"}}
SPIFFE = {"security": {"spiffe": {"trust_domain": "bank.example"}}}
SITES = [
    {
        "name": f"hall-{kind}",
        "kind": kind,
        "address": f"{kind}.bank.example",
        "accelerators": [{"name": "L40S", "count": 4}],
    }
    for kind in ("private", "public")
]
STORES = {
    "store": {
        "url": "postgresql://sextant@db.bank.example/sextant?sslmode=verify-full",
        "password": "file:/etc/pg",
    },
    "limits": {"url": "rediss://redis.bank.example:6379", "password": "file:/etc/redis"},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "one machine": ("private-cloud", DISTILLED),
    "several machines": (
        "private-cloud",
        {**R1, "sites": [{"name": "h", "accelerators": [{"name": "H100", "count": 16}]}]},
    ),
    "sglang": ("private-cloud", {**DISTILLED, "engine": {"kind": "sglang"}}),
    "pools": ("saas", POOLED),
}


def bundle_of(case: str) -> Bundle:
    mode, spec = CASES[case]
    return render(order(mode, **{**spec, **SPIFFE}))


def named(bundle: Bundle, kind: str, ending: str) -> dict[str, Any]:
    return next(
        body
        for body in objects_of(bundle)
        if body["kind"] == kind and body["metadata"]["name"].endswith(ending)
    )


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid_and_fits_the_others(case: str) -> None:
    bundle = bundle_of(case)
    objects = objects_of(bundle)
    assert [fault for body in objects for fault in faults_of(body)] == []
    assert faults_among(objects, bundle.needs) == []


@pytest.mark.parametrize("case", CASES)
def test_the_gateway_expects_the_ids_that_are_registered(case: str) -> None:
    bundle = bundle_of(case)
    text = named(bundle, "ConfigMap", "gateway")["data"]["sextant.yaml"]
    document = parse_document(text)
    assert document.spec.security.spiffe is not None
    registered = {
        f"spiffe://bank.example/ns/{namespace}/sa/{component}"
        for body in of_kind(objects_of(bundle), "ClusterSPIFFEID")
        for component in [body["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]]
        for namespace in body["spec"]["namespaceSelector"]["matchExpressions"][0]["values"]
    }
    for entry in document.spec.served:
        assert isinstance(entry.engine, RemoteEngine)
        assert entry.engine.base_url.startswith("https://")
        assert entry.engine.base_url.endswith(":8443/v1")
        assert entry.engine.peer_id in registered
    for body in of_kind(objects_of(bundle), "ClusterSPIFFEID"):
        assert "dnsNameTemplates" not in body["spec"]


@pytest.mark.parametrize("case", CASES)
def test_an_engine_is_reached_through_its_proxy_alone(case: str) -> None:
    bundle = bundle_of(case)
    engines = [
        body
        for body in objects_of(bundle)
        if body["kind"] in ("Deployment", "LeaderWorkerSet")
        and body["metadata"]["labels"]["app.kubernetes.io/component"] == "engine"
    ]
    assert engines
    for body in engines:
        spec = body["spec"]
        leader = spec.get("leaderWorkerTemplate", {}).get("leaderTemplate") or spec["template"]
        engine, proxy = leader["spec"]["containers"][0], leader["spec"]["initContainers"][-1]
        assert "ports" not in engine
        assert "127.0.0.1" in engine["command"] and "0.0.0.0" not in engine["command"]
        assert (proxy["name"], proxy["restartPolicy"]) == ("mutual-tls", "Always")
        assert proxy["securityContext"] == engine["securityContext"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert engine[probe]["httpGet"]["port"] == 8444
        for volume in leader["spec"]["volumes"]:
            if "csi" in volume:
                assert volume["csi"] == {"driver": "csi.spiffe.io", "readOnly": True}
        name, space = body["metadata"]["name"], body["metadata"]["namespace"]
        (policy,) = [
            each
            for each in of_kind(objects_of(bundle), "NetworkPolicy")
            if (each["metadata"]["name"], each["metadata"]["namespace"]) == (name, space)
        ]
        opened = [port["port"] for rule in policy["spec"]["ingress"] for port in rule.get("ports", ())]
        assert opened == [8443, 8444]
        assert "kubernetes.io/metadata.name" in str(policy["spec"]["ingress"][1]["from"])


def test_without_the_section_nothing_of_it_is_there() -> None:
    bundle = render(order("private-cloud", **DISTILLED))
    text = "".join(file.content.decode() for file in bundle.files).lower()
    assert "csi.spiffe.io" not in text and "clusterspiffeid" not in text and "envoy" not in text
    assert not [file for file in bundle.files if "spire" in file.path or "identit" in file.path]


def test_the_class_of_registrations_is_the_documents() -> None:
    spiffe = {"trust_domain": "bank.example", "class_name": "spire-system-spire"}
    bundle = render(order("private-cloud", **{**DISTILLED, "security": {"spiffe": spiffe}}))
    classes = [body["spec"]["className"] for body in of_kind(objects_of(bundle), "ClusterSPIFFEID")]
    assert classes == ["spire-system-spire"] * 2


def test_another_socket_is_mounted_where_the_document_says() -> None:
    spiffe = {"trust_domain": "bank.example", "workload_api": "unix:///run/agent/api.sock"}
    bundle = render(order("private-cloud", **{**DISTILLED, "security": {"spiffe": spiffe}}))
    text = "".join(file.content.decode() for file in bundle.files if file.path.startswith("manifests/"))
    assert text.count("mountPath: /run/agent\n") == 2
    assert text.count("path: /run/agent/api.sock\n") == 1


def test_somebody_is_called_before_the_certificate_ends() -> None:
    alerts = {
        rule["alert"]: rule["expr"]
        for group in named(bundle_of("one machine"), "PrometheusRule", "alerts")["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert "sextant_identity_expires_in_seconds" in alerts["SextantIdentityEnds"]
    assert "sextant_transport_upstream_peers_refused_total" in alerts["SextantPeerRefused"]


@pytest.mark.parametrize(
    ("mode", "spec", "said"),
    [
        ("private-cloud", {**DISTILLED, "planning": {"split": True}}, "shows no certificate"),
        ("private-cloud", {**DISTILLED, "delivery": {"mesh": "istio"}}, "istio ends mutual TLS already"),
        ("private-cloud", {**DISTILLED, "engine": {"kind": "nim"}}, "cannot be told to listen on 127.0.0.1"),
        ("container", DISTILLED, "no proxy that ends mutual TLS"),
        ("on-prem", DISTILLED, "no proxy stands beside engines of a server"),
        ("on-prem", COMPOSE, "do not carry the agent's socket"),
    ],
    ids=["prefill and decode apart", "a mesh", "NIM", "container", "servers", "compose"],
)
def test_what_cannot_be_done_is_refused_with_the_reason(mode: str, spec: dict[str, Any], said: str) -> None:
    with pytest.raises(Unsupported, match=said) as raised:
        render(order(mode, **{**spec, **SPIFFE}))
    assert raised.value.field is not None and raised.value.field.startswith("spec.security.spiffe")


@pytest.mark.parametrize("mode", ["on-prem", "edge"])
def test_a_server_needs_an_agent(mode: str) -> None:
    bundle = render(order(mode, **{**EMBEDDED, **SPIFFE}))
    asked = [need.check for need in bundle.needs if need.name.startswith("a SPIRE agent")]
    assert asked == ["test -S /run/spire/sockets/spire-agent.sock"]


def test_each_site_of_a_hybrid_registers_its_own() -> None:
    bundle = render(order("hybrid", **{**DISTILLED, **STORES, **SPIFFE, "sites": SITES}))
    paths = [file.path for file in bundle.files if file.path.endswith("60-identities.yaml")]
    assert len(paths) == 2
    for folder in {path.partition("/")[0] for path in paths}:
        files = tuple(file for file in bundle.files if file.path.startswith(f"{folder}/"))
        objects = [
            body for file in files if file.path.endswith(".yaml") for body in yaml.safe_load_all(file.content)
        ]
        assert len(of_kind([body for body in objects if body and "kind" in body], "ClusterSPIFFEID")) == 2


@pytest.mark.parametrize("name", ["envoy.yaml", "60-identities.yaml"])
def test_the_files_are_as_they_were_reviewed(name: str) -> None:
    bundle = bundle_of("one machine")
    if name == "envoy.yaml":
        made = named(bundle, "ConfigMap", "-sidecar")["data"][name]
    else:
        made = next(file.content.decode() for file in bundle.files if file.path.endswith(name))
    golden = GOLDEN / name
    if os.environ.get("SEXTANT_WRITE_GOLDEN"):
        golden.write_text(made)
    assert made == golden.read_text()
