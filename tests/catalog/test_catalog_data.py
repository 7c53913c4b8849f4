"""Images, devices and the capability matrix: whole, consistent, and refusing what they must."""

from __future__ import annotations

import itertools
import re
from typing import get_args

import msgspec
import pytest
from tests.render.orders import DISTILLED, EMBEDDED, order

from sextant.base.errors import Unsupported
from sextant.catalog.capabilities import cell_of, check
from sextant.catalog.devices import device_of
from sextant.catalog.images import image_of, skews, unpinned
from sextant.render import MODES
from sextant.spec.engine_data import engines
from sextant.spec.facts import load_catalog
from sextant.spec.render_data import load_facts, load_images
from sextant.spec.rendering import Images, Proof, Vendor, vendor_of

FACTS, IMAGES = load_facts(), load_images("1.2.3")
DIGEST = "sha256:" + "a" * 64


def planned(vendor_site: str, engine: str, mode: str = "private-cloud"):  # type: ignore[no-untyped-def]
    sites = [{"name": "a", "accelerators": [{"name": vendor_site, "count": 8}]}]
    return order(mode, model=DISTILLED["model"], engine={"kind": engine}, sites=sites)


def test_every_combination_has_one_cell() -> None:
    wanted = set(itertools.product(get_args(Vendor), engines(), MODES))
    found = [(cell.vendor, cell.engine, cell.mode) for cell in FACTS.cells]
    assert (set(found), len(found)) == (wanted, len(wanted))


def test_cells_that_are_not_shown_say_why() -> None:
    assert [cell for cell in FACTS.cells if cell.proof != "executed" and not cell.reason] == []
    assert {cell.proof for cell in FACTS.cells} == set(get_args(Proof))


def test_every_cell_that_is_not_refused_has_an_image_and_a_device() -> None:
    devices = {device.vendor for device in FACTS.devices}
    images = {(image.engine, image.vendor) for image in IMAGES.known.values()}
    for cell in FACTS.cells:
        if cell.proof != "unsupported" and cell.engine not in ("embedded", "remote"):
            assert (cell.engine, cell.vendor) in images, cell
            assert cell.vendor in devices


def test_tags_are_fixed_and_everything_names_its_source() -> None:
    for image in IMAGES.known.values():
        assert "@" not in image.tagged
        assert "sha256" not in image.source
        assert image.source
        assert image.tag != "latest" or image.name == "vllm-intel"
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", image.tagged)
    assert IMAGES.known["sextant"].tag == "1.2.3"


def release_of(version: str) -> str:
    """`0.33` of `v0.33.0`; empty where there is no number of a release."""
    found = re.match(r"v?(\d+\.\d+)", version)
    return found[1] if found else ""


@pytest.mark.parametrize("name", [name for name, image in IMAGES.known.items() if image.engine])
def test_the_arguments_are_for_the_version_in_the_image_or_that_is_said(name: str) -> None:
    image = IMAGES.known[name]
    assert image.engine_version in image.tagged, "the tag says another version"
    written_for = FACTS.engines[image.engine].version
    same = release_of(written_for) != "" and release_of(written_for) == release_of(image.engine_version)
    assert bool(image.skew) != same, f"written for {written_for}, the image holds {image.engine_version}"


def test_a_skew_is_said_in_the_bundle() -> None:
    (said,) = skews(planned("H200", "vllm"))
    assert "written for 0.33.0 and its image holds 0.31.0" in said
    assert skews(planned("H200", "nim")) == ()
    assert skews(order("on-prem", **EMBEDDED)) == ()


def test_every_accelerator_of_the_catalogue_has_a_vendor_and_a_device() -> None:
    for accelerator in load_catalog().accelerators.values():
        vendor = vendor_of(accelerator.vendor)
        assert any(device.vendor == vendor for device in FACTS.devices), accelerator.id
    with pytest.raises(Unsupported, match="Cerebras"):
        vendor_of("Cerebras")


@pytest.mark.parametrize(
    ("site", "engine", "resource", "image"),
    [
        ("H200", "vllm", "nvidia.com/gpu", "vllm-nvidia"),
        ("MI300X", "sglang", "amd.com/gpu", "sglang-amd"),
        ("gaudi3", "vllm", "habana.ai/gaudi", "vllm-intel"),
        ("ascend-910b", "mindie", "huawei.com/Ascend910", "mindie-huawei"),
        ("atlas-300i-duo", "mindie", "huawei.com/Ascend310P", "mindie-huawei-300i"),
    ],
)
def test_image_and_device_fit_the_accelerator(site: str, engine: str, resource: str, image: str) -> None:
    made = planned(site, engine)
    (served,) = made.served
    assert (device_of(made, served).resource, image_of(made, served).name) == (resource, image)


def test_a_model_without_accelerators_asks_for_none() -> None:
    made = order("on-prem", **EMBEDDED)
    (served,) = made.served
    assert device_of(made, served).resource == ""
    assert (cell_of(made, served).proof, check(made)) == ("executed", ())
    with pytest.raises(Unsupported, match="no image of embedded"):
        image_of(made, served)


def test_what_is_not_shown_is_said() -> None:
    (said,) = check(planned("H200", "vllm"))
    assert said.startswith("r1-7b: nvidia x vllm x private-cloud is schema-valid: ")


def test_a_cell_that_the_matrix_lacks_is_refused() -> None:
    made = order("on-prem", **EMBEDDED)
    without = msgspec.structs.replace(made, facts=msgspec.structs.replace(FACTS, cells=()))
    with pytest.raises(Unsupported, match="no cell cpu x embedded x on-prem"):
        check(without)


def test_references_carry_mirror_and_digest() -> None:
    locked = {IMAGES.known["vllm-nvidia"].tagged: DIGEST}
    made = Images(known=IMAGES.known, digests=locked, registry="mirror.example.com:5000/a")
    assert made.reference("vllm-nvidia") == f"mirror.example.com:5000/a/vllm/vllm-openai:v0.31.0@{DIGEST}"
    assert made.reference("sextant") == "mirror.example.com:5000/a/sextant:1.2.3"
    assert IMAGES.reference("redis") == "docker.io/library/redis:8.0-bookworm"
    assert (made.is_pinned("vllm-nvidia"), made.is_pinned("redis"), made.is_pinned("gone")) == (
        True,
        False,
        False,
    )
    with pytest.raises(Unsupported, match="no image `gone`"):
        made.reference("gone")


def test_an_image_published_as_latest_alone_must_be_locked() -> None:
    with pytest.raises(Unsupported, match="another one tomorrow"):
        IMAGES.reference("vllm-intel")
    locked = load_images("1", lock=f"{IMAGES.known['vllm-intel'].tagged}@{DIGEST}\n", lock_name="l")
    assert locked.reference("vllm-intel").endswith(f":latest@{DIGEST}")


def test_the_unpinned_are_listed_once_and_sorted() -> None:
    made = order("on-prem", **EMBEDDED)
    found = unpinned(made, ["redis", "nginx"])
    assert found == (
        "docker.io/library/redis:8.0-bookworm",
        "docker.io/nginxinc/nginx-unprivileged:1.28-alpine",
    )
