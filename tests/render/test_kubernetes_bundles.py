"""Every object of every cluster bundle passes its schema and fits the others; each check bites."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.render.orders import DISTILLED, EMBEDDED, R1, order
from tests.render.schema_check import (
    STRICT,
    WHY_NOT_STRICT,
    faults_among,
    faults_of,
    objects_of,
    of_kind,
    trigger_faults,
)

from sextant.base.errors import Unsupported
from sextant.operations.verify.pods import number, pods_of
from sextant.render import render
from sextant.spec.bundle import Bundle
from sextant.spec.document import parse_document

Object = dict[str, Any]

R1_SPREAD = {
    "model": {"name": "deepseek-r1", "source": "hf:deepseek-ai/DeepSeek-R1"},
    "engine": {"kind": "sglang"},
    "sites": [{"name": "hall-1", "accelerators": [{"name": "H100", "count": 16}]}],
}
SHARED = {**DISTILLED, "sites": [{"name": "hall-1", "accelerators": [{"name": "H100", "count": 2}]}]}
SMALL = {
    "model": {"name": "r1-1.5b", "source": "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"},
    "engine": {"kind": "vllm", "context_tokens": 4096},
    "sites": [{"name": "hall-1", "accelerators": [{"name": "H100", "count": 2}]}],
}
LINES = {
    "models": [
        {
            "name": "r1-7b",
            "source": "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
            "engine": {"kind": "vllm", "context_tokens": 8192},
            "pool": pool,
        }
        for pool in ("finance", "risk")
    ],
    "sites": [{"name": "hall-1", "accelerators": [{"name": "L40S", "count": 10}]}],
    "delivery": {
        "quotas": [
            {"name": "finance", "percent": 40},
            {"name": "risk", "percent": 30},
            {"name": "audit", "percent": 30},
        ]
    },
}
CASES: dict[str, dict[str, Any]] = {
    "one-machine": R1,
    "two-machines": R1_SPREAD,
    "small": DISTILLED,
    "embedded": EMBEDDED,
    "lines-of-business": LINES,
    "mig": {**SMALL, "delivery": {"gpu_sharing": "mig"}},
    "mps": {**SMALL, "delivery": {"gpu_sharing": "mps"}},
    "time-slicing": {**SMALL, "delivery": {"gpu_sharing": "time-slicing"}},
    "karpenter": {**DISTILLED, "delivery": {"node_scaling": "karpenter"}},
    "cluster-autoscaler": {**DISTILLED, "delivery": {"node_scaling": "cluster-autoscaler"}},
    "open": {**R1, "delivery": {"ingress_host": "api.example.com", "namespace": "llm"}},
    "to-zero": {**DISTILLED, "scaling": {"scale_to_zero": True, "max_replicas": 3}},
    "own-stores": {
        **DISTILLED,
        "store": {"url": "postgresql://sextant@10.0.0.7/sextant", "password": "env:DB_PASSWORD"},
        "limits": {"url": "rediss://redis.example.com:6380", "password": "file:/etc/redis/password"},
    },
    "backed-up": {
        **DISTILLED,
        "continuity": {"backup": {"repository": "s3:https://s3.example.com/backups/sextant"}},
    },
    "amd": {**R1, "sites": [{"name": "hall-1", "accelerators": [{"name": "MI300X", "count": 8}]}]},
}


PORTAL: dict[str, Any] = {"url": "https://portal.example.com"}
OPEN_PORTAL: dict[str, Any] = {
    **PORTAL,
    "support": "mailto:help@example.com",
    "sign_up": "open",
    "plan": "standard",
    "credit": "5.00",
    "blocked_domains": ["mailinator.example"],
    "trusted_proxies": ["10.244.0.0/16"],
    "agreement": {"file": "data-use.md", "version": "2026-11"},
}
SMTP = {"host": "smtp.example.com", "sender": "portal@example.com", "password": "file:/etc/sextant/smtp"}

POOLED = {
    "models": [
        {
            "name": "r1-7b",
            "source": "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
            "engine": {"kind": "vllm", "context_tokens": 8192},
            **more,
        }
        for more in ({}, {"pool": "professional"})
    ],
    "sites": [{"name": "hall-1", "accelerators": [{"name": "L40S", "count": 8}]}],
    "workload": {"ttft_ms_p99": 2000.0},
    "scaling": {"scale_to_zero": True},
    "delivery": {"ingress_host": "api.example.com"},
    "portal": OPEN_PORTAL,
    "alerts": {"smtp": SMTP},
}
CASES["saas"] = POOLED
CASES["saas-embedded"] = {**EMBEDDED, "delivery": {"ingress_host": "api.example.com"}, "portal": PORTAL}


def rendered(name: str) -> Bundle:
    """The bundle of that case."""
    mode = next((each for each in ("saas", "hybrid") if name.startswith(each)), "private-cloud")
    return render(order(mode, **CASES[name]))


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    return {name: rendered(name) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_every_object_passes_its_schema(bundles: dict[str, Bundle], name: str) -> None:
    objects = objects_of(bundles[name])
    assert len(objects) > 20
    assert [fault for body in objects for fault in faults_of(body)] == []


@pytest.mark.parametrize("name", CASES)
def test_objects_fit_each_other(bundles: dict[str, Bundle], name: str) -> None:
    bundle = bundles[name]
    assert faults_among(objects_of(bundle), bundle.needs) == []


@pytest.mark.parametrize("name", CASES)
def test_the_document_of_the_gateway_can_be_read(bundles: dict[str, Bundle], name: str) -> None:
    document = next(
        body["data"]["sextant.yaml"]
        for body in objects_of(bundles[name])
        if "sextant.yaml" in body.get("data", {})
    )
    spec = parse_document(document).spec
    assert spec.gateway.tls is not None and spec.control.tls is not None
    assert spec.store.url.startswith("postgresql://") and spec.limits is not None


@pytest.mark.skipif(not STRICT, reason=WHY_NOT_STRICT)
@pytest.mark.parametrize("name", CASES)
def test_triggers_have_the_parameters_of_keda(bundles: dict[str, Bundle], name: str) -> None:
    scaled = of_kind(objects_of(bundles[name]), "ScaledObject")
    assert scaled != []
    assert [fault for body in scaled for fault in trigger_faults(body)] == []


def test_the_same_order_gives_the_same_bytes() -> None:
    assert rendered("lines-of-business") == rendered("lines-of-business")


@pytest.mark.parametrize("name", ["one-machine", "two-machines", "small", "amd"])
def test_accelerators_are_the_plans(bundles: dict[str, Bundle], name: str) -> None:
    given = order("private-cloud", **CASES[name])
    option = given.served[0].option
    assert option is not None
    objects = objects_of(bundles[name])
    scaler = next(
        body for body in of_kind(objects, "ScaledObject") if body["metadata"]["name"].startswith("engine")
    )
    workload = next(
        body
        for body in objects
        if body["kind"] == scaler["spec"]["scaleTargetRef"]["kind"]
        and body["metadata"]["name"] == scaler["metadata"]["name"]
    )
    resource = {"amd": "amd.com/gpu"}.get(name, "nvidia.com/gpu")
    of_replica = sum(
        int(template["spec"]["containers"][0]["resources"]["limits"][resource]) * count
        for template, count in pods_of(workload)
    )
    assert of_replica == option.layout.replica
    assert of_replica * scaler["spec"]["minReplicaCount"] == option.count
    assert workload["metadata"]["annotations"]["sextant.dev/accelerators"] == str(option.count)


def test_a_replica_of_several_machines_is_a_group(bundles: dict[str, Bundle]) -> None:
    (group,) = of_kind(objects_of(bundles["two-machines"]), "LeaderWorkerSet")
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2
    assert group["spec"]["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"
    leader, worker = (template for template, _ in pods_of(group))
    assert "readinessProbe" in leader["spec"]["containers"][0]
    assert "readinessProbe" not in worker["spec"]["containers"][0]
    argv = " ".join(worker["spec"]["containers"][0]["command"])
    assert "$(LWS_LEADER_ADDRESS)" in argv and "LWS_WORKER_INDEX" in argv
    for template in (leader, worker):
        shared = next(v for v in template["spec"]["volumes"] if v["name"] == "shared-memory")
        assert shared["emptyDir"]["medium"] == "Memory"
        assert template["spec"]["containers"][0]["resources"]["limits"]["rdma/rdma_shared_device_a"] == 1
    (policy,) = [
        body
        for body in of_kind(objects_of(bundles["two-machines"]), "NetworkPolicy")
        if body["metadata"]["name"] == group["metadata"]["name"]
    ]
    assert policy["spec"]["egress"] == [
        {"to": [{"podSelector": {"matchLabels": policy["spec"]["podSelector"]["matchLabels"]}}]}
    ]


def test_probes_leave_time_to_load(bundles: dict[str, Bundle]) -> None:
    served = order("private-cloud", **R1).served[0]
    (engine,) = [
        body
        for body in of_kind(objects_of(bundles["one-machine"]), "Deployment")
        if body["metadata"]["name"] == "engine-deepseek-r1"
    ]
    probe = engine["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    allowed_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert served.load_s > 100
    assert 2 * served.load_s <= allowed_s <= 10_800
    assert engine["spec"]["progressDeadlineSeconds"] > allowed_s


def test_lines_of_business_share_what_there_is(bundles: dict[str, Bundle]) -> None:
    quotas = {
        body["metadata"]["namespace"]: number(body["spec"]["hard"].get("requests.nvidia.com/gpu", "0"))
        for body in of_kind(objects_of(bundles["lines-of-business"]), "ResourceQuota")
    }
    assert quotas == {"sextant": 0, "sextant-finance": 4, "sextant-risk": 3, "sextant-audit": 3}
    engines = {
        body["metadata"]["namespace"]
        for body in of_kind(objects_of(bundles["lines-of-business"]), "Deployment")
        if body["metadata"]["name"].startswith("engine")
    }
    assert engines == {"sextant-finance", "sextant-risk"}


@pytest.mark.parametrize(
    ("count", "percents", "shares"),
    [(8, (40, 30, 30), (3, 3, 2)), (10, (40, 30, 30), (4, 3, 3)), (1, (34, 33, 33), (1, 0, 0)),
     (7, (50, 25), (3, 2)), (0, (40, 60), (0, 0)), (13, (33, 33, 34), (4, 4, 5))],
)  # fmt: skip
def test_no_accelerator_is_left_over(count: int, percents: tuple[int, ...], shares: tuple[int, ...]) -> None:
    names = ("finance", "risk", "audit")[: len(percents)]
    lines = [{"name": name, "percent": percent} for name, percent in zip(names, percents, strict=True)]
    sites = [{"name": "hall-1", "accelerators": [{"name": "H100", "count": count + 1}]}]
    bundle = render(order("private-cloud", **{**SMALL, "sites": sites}, delivery={"quotas": lines}))
    held = {
        body["metadata"]["namespace"].removeprefix("sextant-"): int(
            body["spec"]["hard"]["requests.nvidia.com/gpu"]
        )
        for body in of_kind(objects_of(bundle), "ResourceQuota")
    }
    assert tuple(held[name] for name in names) == shares
    assert held["sextant"] == 1


@pytest.mark.parametrize("name", CASES)
def test_no_engine_may_grow_beyond_its_namespace(bundles: dict[str, Bundle], name: str) -> None:
    objects = objects_of(bundles[name])
    held = {body["metadata"]["namespace"]: body["spec"]["hard"] for body in of_kind(objects, "ResourceQuota")}
    asked: dict[tuple[str, str], float] = {}
    for scaler in of_kind(objects, "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        space = scaler["metadata"]["namespace"]
        (body,) = [
            each
            for each in objects
            if (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace"))
            == (target["kind"], target["name"], space)
        ]
        for template, count in pods_of(body):
            for container in template["spec"]["containers"]:
                for resource, amount in container["resources"]["requests"].items():
                    key = (space, f"requests.{resource}")
                    most = scaler["spec"]["maxReplicaCount"]
                    asked[key] = asked.get(key, 0) + number(amount) * count * most
    for (space, resource), amount in asked.items():
        if resource in held[space]:
            assert amount <= number(held[space][resource]), (space, resource)


def test_a_line_whose_engines_need_more_than_its_share_is_refused() -> None:
    delivery = {"quotas": [{"name": "finance", "percent": 10}, {"name": "risk", "percent": 90}]}
    sites = [{"name": "hall-1", "accelerators": [{"name": "L40S", "count": 4}]}]
    with pytest.raises(Unsupported, match=r"the share of `finance` is 0 of 4"):
        render(order("private-cloud", **{**LINES, "delivery": delivery, "sites": sites}))


@pytest.mark.parametrize(
    ("way", "resource"),
    [("mig", "nvidia.com/mig-"), ("mps", "nvidia.com/gpu.shared"), ("time-slicing", "nvidia.com/gpu.shared")],
)
def test_shares_of_an_accelerator(bundles: dict[str, Bundle], way: str, resource: str) -> None:
    objects = objects_of(bundles[way])
    (engine,) = [
        body for body in of_kind(objects, "Deployment") if body["metadata"]["name"].startswith("engine")
    ]
    container = engine["spec"]["template"]["spec"]["containers"][0]
    (asked,) = [name for name in container["resources"]["limits"] if name.startswith("nvidia.com/")]
    assert asked.startswith(resource)
    (config,) = [body for body in objects if body["metadata"].get("namespace") == "gpu-operator"]
    if way == "mig":
        assert "migStrategy: mixed" in config["data"]["sextant"]
        return
    share = float(container["command"][container["command"].index("--gpu-memory-utilization") + 1])
    parts = int(config["data"]["sextant"].split("replicas: ")[1].split()[0])
    assert parts >= 2
    assert share * parts <= 0.95


@pytest.mark.parametrize("way", ["mig", "mps", "time-slicing"])
def test_a_model_that_needs_whole_accelerators_is_not_shared(way: str) -> None:
    with pytest.raises(Unsupported, match="one replica spans 8 accelerators"):
        render(order("private-cloud", **R1, delivery={"gpu_sharing": way}))


def test_other_vendors_cannot_share() -> None:
    with pytest.raises(Unsupported, match="NVIDIA's accelerators alone"):
        render(order("private-cloud", **CASES["amd"], delivery={"gpu_sharing": "mps"}))


def test_nothing_grows_beyond_the_sites(bundles: dict[str, Bundle]) -> None:
    def most(name: str) -> int:
        scaled = of_kind(objects_of(bundles[name]), "ScaledObject")
        return next(
            body["spec"]["maxReplicaCount"]
            for body in scaled
            if body["metadata"]["name"].startswith("engine")
        )

    assert most("one-machine") == 2  # 16 accelerators, 8 a replica
    assert most("karpenter") == 8  # nodes come as they are needed


def test_rooks_class_is_offered_where_the_volumes_name_it(bundles: dict[str, Bundle]) -> None:
    objects = objects_of(bundles["one-machine"])
    claims = {body["spec"]["storageClassName"] for body in of_kind(objects, "PersistentVolumeClaim")}
    (storage,) = of_kind(objects, "StorageClass")
    assert storage["metadata"]["name"] in claims
    (filesystem,) = of_kind(objects, "CephFilesystem")
    assert storage["parameters"]["fsName"] == filesystem["metadata"]["name"]
    pools = [f"{filesystem['metadata']['name']}-{each['name']}" for each in filesystem["spec"]["dataPools"]]
    assert storage["parameters"]["pool"] in pools
    own = render(order("private-cloud", **{**R1, "delivery": {"storage_class": "nfs"}}))
    assert of_kind(objects_of(own), "StorageClass") == []


# ---- each check bites ------------------------------------------------------------------------------------


def _first(objects: list[Object], kind: str, name: str = "") -> Object:
    return next(body for body in of_kind(objects, kind) if body["metadata"]["name"].startswith(name))


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "minReadySeconds"), "five"),
        (
            "Deployment",
            ("spec", "template", "spec", "containers", 0, "resources", "limits", "memory"),
            "5GiB",
        ),
        ("NetworkPolicy", ("spec", "ingres"), []),
        ("Service", ("spec", "ports", 0, "port"), "https"),
    ],
)
def test_a_schema_refuses_what_is_wrong(
    bundles: dict[str, Bundle], kind: str, path: tuple[Any, ...], value: object
) -> None:
    if value == "5GiB" and not STRICT:
        pytest.skip(reason=WHY_NOT_STRICT)
    body = copy.deepcopy(_first(objects_of(bundles["one-machine"]), kind))
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert faults_of(body) != []


@pytest.mark.skipif(not STRICT, reason=WHY_NOT_STRICT)
@pytest.mark.parametrize(
    "kind", ["ScaledObject", "ServiceMonitor", "Certificate", "PrometheusRule", "Schedule"]
)
def test_a_schema_of_a_custom_resource_refuses_what_it_does_not_know(
    bundles: dict[str, Bundle], kind: str
) -> None:
    body = copy.deepcopy(_first(objects_of(bundles["one-machine"]), kind))
    body["spec"]["unheardOf"] = 1
    assert faults_of(body) != []


@pytest.mark.skipif(not STRICT, reason=WHY_NOT_STRICT)
def test_an_unknown_parameter_of_a_trigger_is_found(bundles: dict[str, Bundle]) -> None:
    body = copy.deepcopy(_first(objects_of(bundles["one-machine"]), "ScaledObject"))
    body["spec"]["triggers"][0]["metadata"]["treshold"] = "1"
    assert trigger_faults(body) == ["unknown treshold"]
