"""Training on a hybrid's machines that may be taken away: told in time, never counted as its failure."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from tests.render.orders import document, order
from tests.render.schema_check import faults_among, faults_of, objects_of, of_kind
from tests.render.test_kubernetes_hybrid import HYBRID, side

from sextant.base.errors import BadDocument, Unsupported
from sextant.operations.verify.pods import number
from sextant.render import render
from sextant.spec.bundle import Bundle
from sextant.spec.document import parse_document

TRAINING: dict[str, Any] = {
    "image": "registry.example.com/ml/trainer:3.2",
    "command": [
        "torchrun",
        "--nnodes=$(NODES)",
        "--rdzv-endpoint=$(LEADER_ADDRESS):$(LEADER_PORT)",
        "train.py",
    ],
    "nodes": 2,
    "checkpoint_gib": 2048,
    "checkpoint_minutes": 20,
}


def trained(**more: Any) -> Bundle:
    """A hybrid with such a training."""
    delivery = more.pop("delivery", {})
    return render(order("hybrid", **{**HYBRID, "delivery": delivery, "training": {**TRAINING, **more}}))


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    return {
        "kueue": trained(),
        "volcano": trained(queue="volcano", on_stop=["/bin/checkpoint-now"]),
        "karpenter": trained(delivery={"node_scaling": "karpenter"}),
        "amd": trained(vendor="amd", nodes=1, accelerators_per_node=4),
    }


def job_in(bundle: Bundle) -> Any:
    """The training's job."""
    return next(
        body
        for body in of_kind(objects_of(bundle), "Job")
        if body["metadata"]["namespace"] == "sextant-training"
    )


@pytest.mark.parametrize("name", ["kueue", "volcano", "karpenter", "amd"])
def test_objects_pass_their_schemas_and_fit_each_other(bundles: dict[str, Bundle], name: str) -> None:
    objects = objects_of(side(bundles[name], "public"))
    ours = [body for body in objects if not body["apiVersion"].startswith("chaos-mesh.org")]
    assert [fault for body in ours for fault in faults_of(body)] == []
    assert faults_among(objects, bundles[name].needs) == []


def test_a_machine_that_is_taken_away_is_no_failure(bundles: dict[str, Bundle]) -> None:
    spec = job_in(bundles["kueue"])["spec"]
    ignored, hopeless = spec["podFailurePolicy"]["rules"]
    assert ignored == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert hopeless["action"] == "FailJob" and hopeless["onExitCodes"]["values"] == [126, 127]
    # The API server takes a failure policy with these alone.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podReplacementPolicy"] == "Failed"
    named = spec["template"]["spec"]["containers"][0]["name"]
    assert hopeless["onExitCodes"]["containerName"] == named


def test_the_signal_comes_before_the_machine_goes(bundles: dict[str, Bundle]) -> None:
    spec = job_in(bundles["kueue"])["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 110
    short = job_in(trained(notice_s=30))["spec"]["template"]["spec"]
    assert short["terminationGracePeriodSeconds"] == 20
    (task,) = job_in(bundles["volcano"])["spec"]["tasks"]
    hook = task["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]
    assert hook == {"exec": {"command": ["/bin/checkpoint-now"]}}


def test_nothing_but_the_training_is_put_on_such_machines(bundles: dict[str, Bundle]) -> None:
    objects = objects_of(side(bundles["karpenter"], "public"))
    pool = next(
        body for body in of_kind(objects, "NodePool") if body["metadata"]["name"] == "sextant-training-spot"
    )
    kinds = {each["key"]: each["values"] for each in pool["spec"]["template"]["spec"]["requirements"]}
    assert kinds["karpenter.sh/capacity-type"] == ["spot"]
    taints = pool["spec"]["template"]["spec"]["taints"]
    job = job_in(bundles["karpenter"])["spec"]["template"]["spec"]
    labels = pool["spec"]["template"]["metadata"]["labels"]
    assert job["nodeSelector"].items() <= labels.items()
    for body in objects:
        if body["kind"] in ("Deployment", "DaemonSet", "Job"):
            spec = body["spec"]["template"]["spec"]
            tolerated = [_tolerates(spec.get("tolerations", []), taint) for taint in taints]
            assert all(tolerated) == (spec == job), body["metadata"]["name"]


def _tolerates(tolerations: list[Any], taint: Any) -> bool:
    return any(
        each.get("key", taint["key"]) == taint["key"]
        and each.get("effect", taint["effect"]) == taint["effect"]
        and (each["operator"] == "Exists" or each["value"] == taint["value"])
        for each in tolerations
    )


def test_the_queue_holds_the_job_and_no_more(bundles: dict[str, Bundle]) -> None:
    objects = objects_of(side(bundles["kueue"], "public"))
    (queue,) = of_kind(objects, "ClusterQueue")
    (local,) = of_kind(objects, "LocalQueue")
    (flavour,) = of_kind(objects, "ResourceFlavor")
    job = job_in(bundles["kueue"])
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (group,) = queue["spec"]["resourceGroups"]
    (flavoured,) = group["flavors"]
    assert flavoured["name"] == flavour["metadata"]["name"]
    held = {each["name"]: each["nominalQuota"] for each in flavoured["resources"]}
    assert held["nvidia.com/gpu"] == "16"
    asked = job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    # Kueue lets no job go that asks for something its queue does not count.
    assert set(asked) == set(group["coveredResources"]) == set(held)
    assert {name: number(amount) * 2 for name, amount in asked.items()} == {
        name: number(amount) for name, amount in held.items()
    }
    assert flavour["spec"]["nodeLabels"]["sextant.dev/capacity"] == "spot"


def test_a_mesh_puts_no_proxy_beside_the_trainer() -> None:
    bundle = side(trained(delivery={"mesh": "istio"}), "public")
    labels = {
        body["metadata"]["name"]: body["metadata"]["labels"]
        for body in of_kind(objects_of(bundle), "Namespace")
    }
    assert labels["sextant"]["istio-injection"] == "enabled"
    assert "istio-injection" not in labels["sextant-training"]


def test_volcano_begins_anew_as_a_whole(bundles: dict[str, Bundle]) -> None:
    job = job_in(bundles["volcano"])
    assert job["apiVersion"] == "batch.volcano.sh/v1alpha1"
    assert job["spec"]["minAvailable"] == job["spec"]["tasks"][0]["replicas"] == 2
    assert {each["event"]: each["action"] for each in job["spec"]["policies"]} == {
        "PodEvicted": "RestartJob",
        "PodFailed": "RestartJob",
    }
    (queue,) = of_kind(objects_of(side(bundles["volcano"], "public")), "Queue")
    assert job["spec"]["queue"] == queue["metadata"]["name"]


@pytest.mark.parametrize("name", ["kueue", "volcano"])
def test_all_that_a_command_may_name_is_there(bundles: dict[str, Bundle], name: str) -> None:
    told = parse_document(document("hybrid", **{**HYBRID, "training": TRAINING}))
    field = type(told.spec.training).model_fields["command"]  # type: ignore[union-attr]
    promised = set(re.findall(r"\$\((\w+)\)", str(field.description)))
    spec = job_in(bundles[name])["spec"]
    template = spec["tasks"][0]["template"] if "tasks" in spec else spec["template"]
    trainer = template["spec"]["containers"][0]
    there = {each["name"] for each in trainer["env"]}
    assert promised == {"NODE_RANK", "NODES", "LEADER_ADDRESS", "CHECKPOINT_FOLDER",
                        "CHECKPOINT_EVERY_S", "CHECKPOINT_GRACE_S"}  # fmt: skip
    assert promised <= there
    values = {each["name"]: each.get("value") for each in trainer["env"]}
    assert values["CHECKPOINT_EVERY_S"] == "1200"
    assert values["CHECKPOINT_FOLDER"].startswith(
        next(each["mountPath"] for each in trainer["volumeMounts"] if each["name"] == "checkpoints")
    )
    assert trainer["command"][0] == "torchrun" and trainer["image"] == TRAINING["image"]


def test_it_may_run_at_the_private_site_too() -> None:
    bundle = trained(site="hall")
    assert job_in(side(bundle, "private"))["metadata"]["name"] == "training"
    assert of_kind(objects_of(side(bundle, "public")), "ClusterQueue") == []


def test_without_training_there_is_none_of_it() -> None:
    bundle = render(order("hybrid", **HYBRID))
    assert not any("training" in file.path for file in bundle.files)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "trainer:latest"}, "is another image tomorrow"),
        ({"image": "trainer"}, "an image with its tag or digest"),
        ({"command": []}, "spec.training.command"),
        ({"notice_s": 5}, "spec.training.notice_s"),
    ],
)
def test_a_document_that_is_wrong_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadDocument, match=said):
        parse_document(document("hybrid", **{**HYBRID, "training": {**TRAINING, **change}}))


def test_a_site_that_is_not_there_is_refused() -> None:
    with pytest.raises(Unsupported, match="no site `moon`"):
        trained(site="moon")


def test_other_modes_train_nothing() -> None:
    with pytest.raises(BadDocument, match="the mode is private-cloud"):
        parse_document(document("private-cloud", **{**HYBRID, "training": TRAINING}))


@pytest.mark.parametrize("name", ["kueue", "volcano"])
def test_a_job_that_asks_for_more_than_its_namespace_may_have_is_found(
    bundles: dict[str, Bundle], name: str
) -> None:
    objects = copy.deepcopy(objects_of(side(bundles[name], "public")))
    quota = next(
        body
        for body in of_kind(objects, "ResourceQuota")
        if body["metadata"]["namespace"] == "sextant-training"
    )
    quota["spec"]["hard"]["requests.nvidia.com/gpu"] = "15"
    found = [str(each) for each in faults_among(objects, bundles[name].needs)]
    assert any("16 of requests.nvidia.com/gpu" in each for each in found)
