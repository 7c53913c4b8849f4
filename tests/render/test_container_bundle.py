"""Bundles of the mode container: objects pass their schemas and fit each other; releases do what they say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.render.orders import DISTILLED, EMBEDDED, R1, order
from tests.render.schema_check import faults_among, faults_of, objects_of, of_kind
from tests.render.test_kubernetes_bundles import R1_SPREAD
from tests.render.test_kubernetes_metrics import known_metrics, metrics_in

from sextant.gateway.accesslog import Line
from sextant.render import render
from sextant.render.containers.logs import QUERIES, saved_searches
from sextant.render.containers.versions import ARGUMENTS, FIRST, START, VERSION_LABEL
from sextant.render.kubernetes.dashboard import PANELS
from sextant.render.readme import readme_file
from sextant.spec.bundle import Bundle
from sextant.spec.render_data import load_images

Object = dict[str, Any]

DELIVERED = {
    "delivery": {
        "registry": "registry.example.com/llm",
        "repository_url": "https://git.example.com/platform/sextant.git",
        "images_lock": "images.lock",
    }
}
SIDE_BY_SIDE = {
    "models": [
        {
            "name": f"r1-7b-{version}",
            "source": "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
            "engine": {"kind": "vllm", "context_tokens": tokens},
        }
        for version, tokens in (("1.0.0", 4096), ("1.1.0", 8192))
    ],
    "sites": [{"name": "hall-1", "accelerators": [{"name": "L40S", "count": 4}]}],
}
CASES: dict[str, dict[str, Any]] = {
    "small": {**DISTILLED, **DELIVERED, "workload": {"ttft_ms_p99": 2000.0}},
    "bare": DISTILLED,
    "embedded": {**EMBEDDED, **DELIVERED},
    "one-machine": {**R1, **DELIVERED},
    "two-machines": {**R1_SPREAD, **DELIVERED},
    "side-by-side": {**SIDE_BY_SIDE, **DELIVERED},
}


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    return {name: render(order("container", **case)) for name, case in CASES.items()}


def objects(bundle: Bundle) -> list[Object]:
    """Its Kubernetes objects, without Grafana's own files."""
    return [body for body in objects_of(bundle) if "kind" in body]


def text(bundle: Bundle, path: str) -> str:
    return next(file.content.decode() for file in bundle.files if file.path == path)


def named(bundle: Bundle, kind: str, name: str) -> Object:
    return next(body for body in of_kind(objects(bundle), kind) if body["metadata"]["name"] == name)


@pytest.mark.parametrize("name", CASES)
def test_every_object_passes_its_schema(bundles: dict[str, Bundle], name: str) -> None:
    bodies = objects(bundles[name])
    assert len(bodies) > 40
    assert [fault for body in bodies for fault in faults_of(body)] == []


@pytest.mark.parametrize("name", CASES)
def test_objects_fit_each_other(bundles: dict[str, Bundle], name: str) -> None:
    found = {fault.what for fault in faults_among(objects(bundles[name]), bundles[name].needs)}
    assert found == set()


def paths(bundle: Bundle) -> set[str]:
    return {file.path for file in bundle.files}


def test_the_gateway_is_switched_after_it_was_looked_at(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["small"]
    strategy = named(bundle, "Rollout", "gateway")["spec"]["strategy"]["blueGreen"]
    for which in ("activeService", "previewService"):
        assert named(bundle, "Service", strategy[which])["spec"]["ports"][0]["port"] == 443
    for which in ("prePromotionAnalysis", "postPromotionAnalysis"):
        assert named(bundle, "AnalysisTemplate", strategy[which]["templates"][0]["templateName"])
    assert "loadBalancerIP" not in str(named(bundle, "Service", "gateway-preview"))
    assert not of_kind(
        [body for body in objects(bundle) if body["metadata"]["name"] == "gateway"], "Deployment"
    )


def test_a_preview_is_never_open_to_the_outside() -> None:
    delivery = {"delivery": {**DELIVERED["delivery"], "ingress_host": "llm.example.com"}}
    bundle = render(order("container", **DISTILLED, **delivery))
    assert named(bundle, "Service", "gateway")["spec"]["type"] == "LoadBalancer"
    assert "type" not in named(bundle, "Service", "gateway-preview")["spec"]


def test_a_new_engine_gets_a_tenth_first(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["small"]
    canary = named(bundle, "Rollout", "engine-r1-7b")["spec"]["strategy"]["canary"]
    weights = [step["setWeight"] for step in canary["steps"] if "setWeight" in step]
    assert weights[0] == 10 and weights == sorted(weights)
    judged = [
        step["analysis"]["templates"][0]["templateName"] for step in canary["steps"] if "analysis" in step
    ]
    assert len(judged) == len(weights)
    assert named(bundle, "AnalysisTemplate", judged[0])
    istio = canary["trafficRouting"]["istio"]
    routes = named(bundle, "VirtualService", istio["virtualService"]["name"])["spec"]["http"]
    assert [route["name"] for route in routes] == istio["virtualService"]["routes"]
    subsets = [way["destination"]["subset"] for way in routes[0]["route"]]
    rule = named(bundle, "DestinationRule", istio["destinationRule"]["name"])["spec"]
    assert [each["name"] for each in rule["subsets"]] == subsets == ["stable", "canary"]
    namespace = named(bundle, "Namespace", "sextant")
    assert namespace["metadata"]["labels"]["istio-injection"] == "enabled"


def test_quotas_leave_room_for_proxies_and_both_versions() -> None:
    spec = {**DISTILLED, **DELIVERED}
    shares = {}
    for mode in ("private-cloud", "container"):
        body = next(
            body
            for body in of_kind(objects(render(order(mode, **spec))), "ResourceQuota")
            if body["metadata"]["namespace"] == "sextant"
        )
        shares[mode] = {name: body["spec"]["hard"][name] for name in ("pods", "limits.cpu")}
    before, now = shares["private-cloud"], shares["container"]
    assert int(now["pods"]) >= int(before["pods"]) + 2
    assert int(now["limits.cpu"]) >= int(before["limits.cpu"]) + 2 * int(now["pods"])


def test_what_scales_a_deployment_scales_the_rollout(bundles: dict[str, Bundle]) -> None:
    for name in ("small", "two-machines"):
        targets = {
            body["spec"]["scaleTargetRef"]["kind"]
            for body in objects(bundles[name])
            if body["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")
        }
        assert "Deployment" not in targets and "Rollout" in targets
    assert len(of_kind(objects(bundles["two-machines"]), "LeaderWorkerSet")) == 1


def queries(bundle: Bundle) -> list[str]:
    """Of analyses, of the dashboard, and of Compose's alerts."""
    judged = [
        metric["provider"]["prometheus"]["query"]
        for body in of_kind(objects(bundle), "AnalysisTemplate")
        for metric in body["spec"]["metrics"]
    ]
    groups = yaml.safe_load(text(bundle, "compose/alerts.yml"))["groups"]
    alerts = [rule["expr"] for group in groups for rule in group["rules"]]
    return [*judged, *alerts, *(query for _, _, query, _ in PANELS)]


def test_every_metric_that_is_judged_or_shown_exists(bundles: dict[str, Bundle]) -> None:
    found = set().union(*map(metrics_in, queries(bundles["small"])))
    assert len(found) > 10
    assert found - known_metrics() == set()


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_takes_every_query(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    rules = [{"record": f"asked:{n}", "expr": query} for n, query in enumerate(queries(bundles["small"]))]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("prometheus.yml", "alerts.yml"):
        (tmp_path / name).write_text(text(bundles["small"], f"compose/{name}"))
    checked = [str(PROMTOOL), "check", "config", str(tmp_path / "prometheus.yml")]
    assert subprocess.run(checked, capture_output=True).returncode == 0


def test_versions_stand_side_by_side(bundles: dict[str, Bundle]) -> None:
    bodies = objects(bundles["side-by-side"])
    rolled = {
        body["metadata"]["name"]: body["spec"]["template"]["metadata"]["labels"].get(VERSION_LABEL)
        for body in of_kind(bodies, "Rollout")
    }
    assert rolled == {"gateway": None, "engine-r1-7b-1-0-0": "1.0.0", "engine-r1-7b-1-1-0": "1.1.0"}
    maps = {
        body["data"]["version"]: body
        for body in of_kind(bodies, "ConfigMap")
        if ARGUMENTS in body.get("data", {})
    }
    assert set(maps) == {"1.0.0", "1.1.0"}
    assert maps["1.1.0"]["metadata"]["name"].startswith("model-r1-7b-1.1.0-")
    assert all(body["immutable"] for body in maps.values())
    assert "8192" in maps["1.1.0"]["data"][ARGUMENTS].splitlines()


def map_of(**engine: object) -> str:
    spec = {**DISTILLED, **DELIVERED, "engine": {"kind": "vllm", **engine}}
    bodies = objects(render(order("container", **spec)))
    body = next(body for body in of_kind(bodies, "ConfigMap") if ARGUMENTS in body.get("data", {}))
    assert body["data"]["version"] == FIRST
    return str(body["metadata"]["name"])


def test_other_parameters_are_another_configmap() -> None:
    assert map_of(context_tokens=4096) == map_of(context_tokens=4096) != map_of(context_tokens=8192)


def test_a_version_is_read_off_the_sources_revision_too() -> None:
    source = "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B@v2.3.4"
    spec = {**DISTILLED, "model": {"name": "r1-1.5b", "source": source}}
    bodies = objects(render(order("container", **spec, **DELIVERED)))
    (body,) = (each for each in of_kind(bodies, "ConfigMap") if ARGUMENTS in each.get("data", {}))
    assert body["metadata"]["name"].startswith("model-r1-1-5b-2.3.4-")


def test_a_shell_starts_the_engine_with_every_argument_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "arguments"
    hostile = ["a b", "$(id)", "`id`", "$HOME", "'", '"', "*", "\\n", "--json", '{"a": 1}', "-n"]
    file.write_text("".join(f"{each}\n" for each in ("/usr/bin/printf", "%s|", *hostile)))
    done = subprocess.run(["/bin/sh", "-eu", "-c", START, str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "".join(f"{each}|" for each in hostile)), done.stderr
    missing = subprocess.run(["/bin/sh", "-eu", "-c", START, str(tmp_path / "no")], capture_output=True)
    assert missing.returncode != 0


def test_searches_name_fields_of_the_access_log() -> None:
    access = {field.name for field in msgspec.structs.fields(Line)} | {
        "logger",
        "level",
        "process",
        "message",
    }
    for _, query, fields in QUERIES:
        assert set(fields) <= access
        asked = {
            word.removeprefix("sextant.") for word in query.replace("(", " ").split() if "sextant." in word
        }
        assert {name for name in asked if '"' not in name} <= access
    view, *searches = saved_searches()
    assert len(searches) == len(QUERIES)
    assert all(each["references"][0]["id"] == view["id"] for each in searches)


def test_what_the_document_does_not_say_is_left_out_and_listed(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["bare"]
    folders = {file.path.partition("/")[0] for file in bundle.files}
    assert not folders & {"argocd", "build", "ci"}
    needs = " ".join(need.why for need in bundle.needs)
    assert "spec.delivery.repository_url" in needs and "spec.delivery.registry" in needs
    assert {"argocd", "build", "ci"} <= {file.path.partition("/")[0] for file in bundles["small"].files}


def test_images_are_named_by_the_users_digests_and_the_others_are_listed() -> None:
    base = load_images("1").known["python"].tagged
    digest = f"sha256:{'ab' * 32}"
    made = order("container", **DISTILLED, delivery={"registry": "registry.example.com/llm"})
    images = load_images(
        made.version, lock=f"{base}@{digest}\n", lock_name="lock", registry="registry.example.com/llm"
    )
    locked = msgspec.structs.replace(made, images=images)
    dockerfile = text(render(locked), "images/sextant/Dockerfile")
    assert dockerfile.count(f"python:3.13-slim-trixie@{digest}") == 2
    assert "@sha256:" not in text(render(made), "images/sextant/Dockerfile")
    bundle = render(locked)
    readme = readme_file(bundle, locked).content.decode()
    assert f"- `{base}`" not in readme
    for name in ("kaniko", "sextant", "ci", "elasticsearch", "grafana", "vllm-nvidia"):
        assert f"- `{images.known[name].tagged}`" in readme, name


def test_steps_name_what_this_mode_has(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["small"]
    steps = (*bundle.install, *bundle.verify, *bundle.upgrade, *bundle.rollback, *bundle.uninstall)
    commands = "\n".join(command for step in steps for command in step.commands)
    assert "deploy/gateway" not in commands and "deployment/" not in commands
    assert "kubectl argo rollouts status -n sextant --timeout=300s gateway" in commands
    there = paths(bundle) | {path.rpartition("/")[0] for path in paths(bundle)}
    for word in commands.split():
        if word.startswith(("argocd/", "tools/", "observability/", "manifests/", "cluster/")):
            assert word.rstrip("/") in there, word


def test_argo_cd_follows_folders_that_are_there(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["small"]
    folders = {file.path.partition("/")[0] for file in bundle.files}
    applications = of_kind(objects(bundle), "Application")
    assert len(applications) == 4
    for body in applications:
        source = body["spec"]["source"]
        assert source["repoURL"] == DELIVERED["delivery"]["repository_url"]
        assert source["path"].removeprefix("bundle/") in folders
        assert body["spec"]["project"] == "bank"
