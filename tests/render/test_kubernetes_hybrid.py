"""Two sites from one document: what is sensitive stays, what may leave is guarded, the database follows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.render.orders import document, order
from tests.render.schema_check import faults_among, faults_of, objects_of, of_kind
from tests.render.test_kubernetes_metrics import known_metrics, metrics_in, queries

from sextant.app.centre_plan import with_fallbacks
from sextant.base.errors import BadDocument, Unsupported
from sextant.render import render
from sextant.spec.bundle import Bundle
from sextant.spec.document import parse_document
from sextant.spec.snapshot import Fallback, ServedModel

WITHOUT_SCHEMA = ("PodChaos", "NetworkChaos")
"""Of Chaos Mesh, whose schemas are not among those at hand."""

SITES = [
    {
        "name": "hall",
        "kind": "private",
        "region": "north",
        "address": "llm.hall.example",
        "accelerators": [{"name": "L40S", "count": 4}],
    },
    {
        "name": "cloud",
        "kind": "public",
        "region": "south",
        "address": "llm.cloud.example",
        "accelerators": [{"name": "L40S", "count": 4}],
    },
]
HYBRID: dict[str, Any] = {
    "model": {"name": "r1-7b", "source": "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"},
    "engine": {"kind": "vllm", "context_tokens": 8192},
    "sites": SITES,
    "store": {
        "url": "postgresql://sextant@pg-a.example,pg-b.example/sextant?target_session_attrs=read-write",
        "password": "file:/etc/sextant/store/password",
    },
    "limits": {"url": "rediss://redis.example:6379", "password": "file:/etc/sextant/limits/password"},
    "continuity": {"backup": {"repository": "s3:https://s3.example.com/backups/sextant"}},
    "delivery": {"mesh": "istio"},
}


def side(bundle: Bundle, folder: str) -> Bundle:
    """The files of one site."""
    return msgspec.structs.replace(
        bundle, files=tuple(file for file in bundle.files if file.path.startswith(f"{folder}/"))
    )


@pytest.fixture(scope="module")
def hybrid() -> Bundle:
    return render(order("hybrid", **HYBRID))


@pytest.mark.parametrize("folder", ["private", "public"])
def test_each_site_is_whole(hybrid: Bundle, folder: str) -> None:
    objects = objects_of(side(hybrid, folder))
    held = [body for body in objects if body["kind"] not in WITHOUT_SCHEMA]
    assert len(objects) - len(held) == 4
    assert [fault for body in held for fault in faults_of(body)] == []
    assert faults_among(objects, hybrid.needs) == []


def _models(bundle: Bundle, folder: str) -> dict[str, Any]:
    document = next(
        body["data"]["sextant.yaml"]
        for body in objects_of(side(bundle, folder))
        if "sextant.yaml" in body.get("data", {})
    )
    return {model.name: model for model in parse_document(document).spec.models}


def test_what_may_leave_is_guarded_and_what_stays_is_cleared(hybrid: Bundle) -> None:
    private = _models(hybrid, "private")
    assert private["r1-7b"].personal_data == "cleared"
    assert private["r1-7b-public"].personal_data == "guarded"
    assert private["r1-7b-public"].engine.base_url == "https://llm.cloud.example/v1"
    public = _models(hybrid, "public")
    assert list(public) == ["r1-7b"]
    assert public["r1-7b"].personal_data == "guarded"


def test_the_private_gateway_alone_overflows_and_keeps_whom_it_must() -> None:
    overflow = {
        "when": "when_queue_full",
        "models": [{"name": "r1-7b", "at_centre": "r1-7b-public"}],
        "stays": ["board"],
    }
    bundle = render(order("hybrid", **HYBRID, overflow=overflow))
    specs = {}
    for folder in ("private", "public"):
        objects = objects_of(side(bundle, folder))
        text = next(
            body["data"]["sextant.yaml"] for body in objects if "sextant.yaml" in body.get("data", {})
        )
        specs[folder] = parse_document(text)
    assert specs["public"].spec.overflow is None
    told = specs["private"].spec.overflow
    assert told is not None and told.personal_data == "mask" and told.stays == ("board",)
    here, there = ServedModel("r1-7b", "remote", ()), ServedModel("r1-7b-public", "remote", ())
    found = with_fallbacks(specs["private"], [here, there])
    assert found[0].fallback == Fallback(model="r1-7b-public", when_full=True, masks=True, stays=("board",))
    assert found[1].fallback is None
    assert any("board never leave" in note for note in bundle.notes)


@pytest.mark.parametrize(
    ("mode", "models", "said"),
    [
        ("hybrid", [{"name": "other", "at_centre": "other-public"}], "there is no model `other`"),
        ("hybrid", [{"name": "r1-7b", "at_centre": "elsewhere"}], "`r1-7b-public`"),
        ("private-cloud", [{"name": "r1-7b", "at_centre": "r1-7b"}], "no other model with the engine remote"),
    ],
)
def test_overflow_to_nowhere_is_refused(mode: str, models: list[Any], said: str) -> None:
    with pytest.raises(BadDocument, match=said):
        parse_document(document(mode, **{**HYBRID, "overflow": {"models": models}}))


def test_the_key_of_the_far_gateway_is_a_secret_of_the_private_site(hybrid: Bundle) -> None:
    gateways = {
        folder: next(
            body
            for body in of_kind(objects_of(side(hybrid, folder)), "Deployment")
            if body["metadata"]["name"] == "gateway"
        )
        for folder in ("private", "public")
    }
    paths = {
        folder: [
            mount["mountPath"] for mount in body["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        ]
        for folder, body in gateways.items()
    }
    assert "/etc/sextant/peers/public-key" in paths["private"]
    assert "/etc/sextant/peers/public-key" not in paths["public"]
    assert any("etc-sextant-peers-public-key" in need.why for need in hybrid.needs)


def test_the_mesh_lets_the_public_site_fall_back_and_never_the_private(hybrid: Bundle) -> None:
    rules = {
        folder: of_kind(objects_of(side(hybrid, folder)), "DestinationRule")[0]["spec"]
        for folder in ("private", "public")
    }
    for rule in rules.values():
        outliers = rule["trafficPolicy"]["outlierDetection"]
        assert (outliers["consecutive5xxErrors"], outliers["baseEjectionTime"]) == (5, "30s")
    failover = rules["public"]["trafficPolicy"]["loadBalancer"]["localityLbSetting"]["failover"]
    assert failover == [{"from": "south", "to": "north"}]
    assert "loadBalancer" not in rules["private"]["trafficPolicy"]
    for folder in ("private", "public"):
        policies = of_kind(objects_of(side(hybrid, folder)), "NetworkPolicy")
        assert any(body["metadata"]["name"] == "allow-mesh" for body in policies)
    routes = {
        folder: of_kind(objects_of(side(hybrid, folder)), "VirtualService")[0]["spec"]["tls"][0]["route"][0]
        for folder in ("private", "public")
    }
    assert routes["private"]["destination"]["subset"] == "hall"
    assert "subset" not in routes["public"]["destination"]


def test_without_a_mesh_there_are_no_rules_of_one() -> None:
    bundle = render(order("hybrid", **{**HYBRID, "delivery": {}}))
    assert not any(file.path.endswith("90-mesh.yaml") for file in bundle.files)
    assert any("nothing fails over" in note for note in bundle.notes)


@pytest.mark.parametrize(("stated", "held"), [(300, 30), (10, 10)])
def test_what_may_be_lost_is_watched(stated: int, held: int) -> None:
    continuity = {**HYBRID["continuity"], "rpo_s": stated}
    bundle = render(order("hybrid", **{**HYBRID, "continuity": continuity}))
    rules = next(
        body
        for body in of_kind(objects_of(side(bundle, "private")), "PrometheusRule")
        if body["metadata"]["name"] == "replication"
    )
    cut, behind = rules["spec"]["groups"][0]["rules"]
    third = held // 3
    assert cut["expr"] == "absent(pg_stat_wal_receiver_status == 2)" and cut["for"] == f"{third}s"
    assert behind["expr"].startswith(f"max(pg_replication_last_replay_seconds) > {held // 2} and")
    settings = next(file for file in bundle.files if file.path == "database/primary.conf")
    assert f"\nwal_receiver_timeout = {third}s\n" in settings.content.decode(), "both together are below it"


def test_the_second_region_may_read_the_firsts_copies_and_no_more(hybrid: Bundle) -> None:
    places = {
        body["metadata"]["name"]: body["spec"]
        for body in of_kind(objects_of(side(hybrid, "public")), "BackupStorageLocation")
    }
    assert places["sextant"]["objectStorage"]["prefix"] == "sextant/public"
    assert places["sextant-private"]["objectStorage"]["prefix"] == "sextant/private"
    assert places["sextant-private"]["accessMode"] == "ReadOnly"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": SITES[:1]}, r"no site of that kind \(public\)"),
        ({"sites": [{**SITES[0], "address": None}, SITES[1]]}, "no address for the site `hall`"),
        ({"sites": [SITES[0], {**SITES[1], "accelerators": []}]}, "`cloud` has 0 accelerators"),
        ({"store": {}}, "both sites keep one set of books"),
    ],
)
def test_what_is_missing_is_said(change: dict[str, Any], said: str) -> None:
    spec = {**HYBRID, **change}
    spec["sites"] = [{k: v for k, v in site.items() if v is not None} for site in spec["sites"]]
    with pytest.raises(Unsupported, match=said):
        render(order("hybrid", **spec))


def test_a_standby_is_not_made_over_somebodys_data(hybrid: Bundle, tmp_path: Path) -> None:
    script = next(file for file in hybrid.files if file.path == "database/standby.sh")
    assert script.executable
    (tmp_path / "PG_VERSION").write_text("17")
    environment = {"PATH": os.environ["PATH"], "PGHOST": "a", "PGUSER": "b", "PGDATA": str(tmp_path)}
    done = subprocess.run(
        ["/bin/sh", "-c", script.content.decode()], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "is not empty" in done.stderr


def test_every_metric_that_joins_the_sites_exists(hybrid: Bundle) -> None:
    found = set().union(*map(metrics_in, queries(side(hybrid, "private"))))
    assert "pg_stat_wal_receiver_status" in found
    assert found - known_metrics() == set()
