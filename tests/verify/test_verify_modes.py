"""Documents over modes, engines, models, vendors and profiles are rendered, and all bundles are clean."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.render.orders import EMBEDDED, document
from tests.render.schema_check import schemas
from tests.render.test_core_matrix import CELLS, LOCK, REMOTE, SITES, wanted_by
from tests.verify.bundles_under_test import rendered
from tests.verify.seen_before import validators

from sextant.base.errors import Unsupported
from sextant.operations.bundles import render_document, write
from sextant.operations.verify import verifying
from sextant.operations.verify.findings import Report
from sextant.operations.verify.running import judge, set_up
from sextant.operations.verify.verifying import verify
from sextant.spec.rendering import Cell

LEAST = 60
PROFILES = (None, "finance", "healthcare", "manufacturing", "government", "logistics")
SMALL = ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
LARGE = "deepseek-ai/DeepSeek-R1"
HALLS = {"nvidia": "H200", "amd": "MI300X"}
HELD = ("on-prem", "edge", "private-cloud", "saas", "hybrid", "container")
"""The modes of the matrix."""
REPOSITORY = "https://git.example.com/platform/sextant.git"
NOT_YET = "are not in this version"
OFFLINE = ("kubectl apply --dry-run=server", "schemas")
"""What may be left undone in a matrix: no cluster is here, and some kinds have no schema at hand."""


class Wanted(msgspec.Struct, frozen=True):
    """One document of the matrix."""

    name: str
    mode: str
    text: str


def matrix() -> Iterator[Wanted]:
    """One document for each cell that is not refused, models and profiles in turn; then large models."""
    for number, cell in enumerate(each for each in CELLS if each.mode in HELD):
        profile, model = PROFILES[number % len(PROFILES)], SMALL[number % len(SMALL)]
        yield wanted(cell, model, profile)
    for vendor, engine, mode, profile in itertools.product(
        HALLS, ("vllm", "sglang"), ("private-cloud", "saas"), ("finance", "government")
    ):
        sites = [{"name": "hall", "accelerators": [{"name": HALLS[vendor], "count": 16}]}]
        spec = {"model": {"name": "r1", "source": f"hf:{LARGE}"}, "engine": {"kind": engine}, "sites": sites}
        text = document(mode, **wanted_by(mode, {**spec, "profile": profile}))
        yield Wanted(f"{mode}-{engine}-{vendor}-r1-{profile}", mode, text)
    engines = ({"kind": "triton", "backend": "tensorrtllm"}, {"kind": "trtllm"})
    for engine, mode in itertools.product(engines, ("on-prem", "private-cloud")):
        spec = {
            "model": {"name": "assistant", "source": f"hf:{SMALL[1]}"},
            "engine": {**engine, "precision": "modelopt"},
            "sites": [{"name": "hall", "accelerators": [{"name": "H200", "count": 8}]}],
        }
        yield Wanted(f"{mode}-{engine['kind']}-fp8", mode, document(mode, **wanted_by(mode, spec)))


def wanted(cell: Cell, model: str, profile: str | None) -> Wanted:
    """The document of somebody who wants that cell, with that model where the engine serves one."""
    spec: dict[str, Any] = dict({"embedded": EMBEDDED, "remote": REMOTE}.get(cell.engine, {}))
    if not spec:
        site = "jetson-agx-orin" if (cell.vendor, cell.mode) == ("nvidia", "edge") else SITES[cell.vendor]
        spec = {
            "model": {"name": "assistant", "source": f"hf:{model}"},
            "engine": {"kind": cell.engine},
            "sites": [{"name": "a", "accelerators": [{"name": site, "count": 8}]}],
            "workload": {"requests_per_s": 0.01, "input_tokens": 200, "output_tokens": 100},
        }
    if profile is not None:
        spec["profile"] = profile
    if cell.mode == "container" and profile != "finance":
        spec["delivery"] = {"registry": "registry.example.com/llm", "repository_url": REPOSITORY}
    name = f"{cell.mode}-{cell.engine}-{cell.vendor}-{model.rpartition('-')[2]}-{profile}"
    return Wanted(name, cell.mode, document(cell.mode, **wanted_by(cell.mode, spec)))


def checked(each: Wanted, folder: Path) -> Report | Unsupported:
    """What verifying its bundle says, or why it is not rendered."""
    place = folder / each.name
    place.mkdir()
    (place / "deployment.yaml").write_text(each.text)
    (place / "images.lock").write_text(LOCK)
    try:
        made = render_document(place / "deployment.yaml", images_lock=place / "images.lock")
    except Unsupported as error:
        return error
    write(made, place / "bundle")
    return verify(place / "bundle", kubernetes="1.36", kept=schemas())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_document_of_the_matrix_is_rendered_and_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "HOST_PROGRAMS", validators())
    documents = list(matrix())
    with ThreadPoolExecutor(2) as pool:
        found = dict(
            zip(
                [each.name for each in documents],
                pool.map(lambda each: checked(each, tmp_path), documents),
                strict=True,
            )
        )
    refused = {name: str(said) for name, said in found.items() if isinstance(said, Unsupported)}
    reports = {name: said for name, said in found.items() if isinstance(said, Report)}
    assert {name: report.faults for name, report in reports.items() if report.faults} == {}
    left = {each.check for report in reports.values() for each in report.not_run}
    print(f"{len(documents)} documents, {len(reports)} clean, not run: {sorted(left)}, refused: {refused}")
    assert left <= set(OFFLINE)
    assert len(reports) >= LEAST
    assert {report.mode for report in reports.values()} == set(HELD)
    assert all(NOT_YET in said for said in refused.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["settings.sh", "install.sh", "lib.sh"])
def test_what_was_seen_before_hides_no_mistake(tmp_path: Path, name: str) -> None:
    shellcheck = next(each for each in validators() if each.name == "shellcheck")
    bundle = rendered(document("edge", **EMBEDDED), tmp_path)
    for number in range(2):
        assert judge(shellcheck, set_up(bundle, tmp_path / f"good-{number}")).faults == ()
    with (bundle / name).open("a") as file:
        file.write("rm -r $HOME/$1\n")
    (fault,) = judge(shellcheck, set_up(bundle, tmp_path / "bad")).faults
    assert fault.path == name and "SC2086" in fault.what
