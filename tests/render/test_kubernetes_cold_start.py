"""What a bundle does so that an engine starts soon: compiled code kept, weights read ahead."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.render.orders import DISTILLED, R1, order
from tests.render.schema_check import faults_among, faults_of, objects_of, of_kind

from sextant.render import render
from sextant.render.kubernetes.compiled import ENVIRONMENT, NODE_FOLDER
from sextant.spec.bundle import Bundle
from sextant.spec.rendering import Order

LLAMA: dict[str, Any] = {
    "model": {"name": "r1-7b", "source": "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"},
    "engine": {"kind": "llamacpp"},
    "sites": DISTILLED["sites"],
}


def bundle_of(kind: str, **more: Any) -> Bundle:
    return render(order("private-cloud", **{**DISTILLED, "engine": {"kind": kind}, **more}))


def pod_of(bundle: Bundle, kind: str = "Deployment") -> Any:
    """`spec` of the engine's pod."""
    found = of_kind(objects_of(bundle), kind)
    body = next(each for each in found if each["metadata"]["name"].startswith("engine-"))
    if kind == "Deployment":
        return body["spec"]["template"]["spec"]
    return body["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_an_engine_is_told_where_its_compiled_code_lies(kind: str) -> None:
    bundle = bundle_of(kind)
    assert [fault for body in objects_of(bundle) for fault in faults_of(body)] == []
    assert faults_among(objects_of(bundle), bundle.needs) == []
    pod = pod_of(bundle)
    (engine,), (chooser,) = pod["containers"], pod["initContainers"]
    told = {each["name"]: each["value"] for each in engine["env"] if "value" in each}
    assert all(told[name].startswith("/models/.compiled/") for name in ENVIRONMENT[kind])
    for each in (engine, chooser):
        (mount,) = [mount for mount in each["volumeMounts"] if mount["name"] == "compiled-cache"]
        assert mount["mountPath"] == "/compiled" and not mount.get("readOnly")
    (volume,) = [each for each in pod["volumes"] if each["name"] == "compiled-cache"]
    assert volume["persistentVolumeClaim"] == {"claimName": "compiled-cache"}
    volumes = {each["metadata"]["name"]: each for each in of_kind(objects_of(bundle), "PersistentVolume")}
    assert volumes["sextant-compiled-cache"]["spec"]["hostPath"]["path"] == f"{NODE_FOLDER}/sextant"
    asked = [need.check for need in bundle.needs if NODE_FOLDER in need.name]
    assert asked == [f"install -d -o root -g 65532 -m 1770 {NODE_FOLDER}/sextant"]


def test_another_image_has_another_folder() -> None:
    names = []
    for kind in ("vllm", "sglang"):
        *_, name, _ = pod_of(bundle_of(kind))["initContainers"][0]["args"]
        names.append(name)
    assert names[0] != names[1]
    assert all(name.startswith("r1-7b-") and len(name) == len("r1-7b-") + 12 for name in names)


def test_an_engine_that_compiles_nothing_has_no_volume_for_it() -> None:
    bundle = render(order("private-cloud", **LLAMA))
    claims = [body["metadata"]["name"] for body in of_kind(objects_of(bundle), "PersistentVolumeClaim")]
    assert claims == ["weights", "weights-cache"]
    assert pod_of(bundle)["initContainers"][0]["args"][2] == ""


def test_weights_are_read_ahead_in_memory_that_the_pod_has_anyway() -> None:
    pod = pod_of(bundle_of("vllm"))
    (engine,), (chooser,) = pod["containers"], pod["initContainers"]
    assert chooser["args"][-1] == "read"
    for name in ("memory", "cpu"):
        assert chooser["resources"]["limits"][name] == engine["resources"]["limits"][name]


def test_weights_that_have_no_room_are_left_to_the_engine() -> None:
    whole = order("private-cloud", **R1)
    (served,) = whole.served
    larger = msgspec.structs.replace(served, weights_bytes=4 << 40)
    full = msgspec.structs.replace(whole, served=(larger,))
    choosers = [pod_of(render(each), kind_of(each))["initContainers"][0] for each in (whole, full)]
    assert choosers[1]["args"][-1] == "leave"
    assert choosers[1]["resources"]["limits"]["memory"] == "64Mi"


def kind_of(one: Order) -> str:
    option = one.served[0].option
    assert option is not None
    return "LeaderWorkerSet" if option.layout.replica > option.accelerator.per_node else "Deployment"
