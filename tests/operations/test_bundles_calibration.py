"""A document that names a calibration of its own machine is rendered by it, and its README says so."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.render.orders import DISTILLED, document

from sextant.base.errors import Misconfigured
from sextant.operations.bundles import Rendered, render_document
from sextant.spec.local_calibration import LocalCalibration, LocalPoint, calibration_text

PINNED = {
    **DISTILLED,
    "engine": {"kind": "vllm", "tensor_parallel": 1},
    "workload": {"requests_per_s": 0.1, "input_tokens": 512, "output_tokens": 128},
}
MEASURED = "measured in the hall"
SLOW = LocalCalibration(
    version=1,
    model="r1-distill-qwen-7b",
    accelerator="l40s",
    precision="bf16",
    measured=MEASURED,
    request_s=0.01,
    prompt_s_per_token=1e-3,
    prompt_s_per_token2=0.0,
    step_s=0.2,
    step_s_per_request=0.05,
    step_s_per_token=1e-6,
    held_tokens=0,
    slots=4,
    batch_tokens=2048,
    band=1.3,
    points=(
        LocalPoint(concurrency=4, rounds=2, input_tokens=512, output_tokens=64, ttft_ms=900, tpot_ms=350),
    ),
)


def rendered(folder: Path, machine: LocalCalibration | None, **more: object) -> Rendered:
    """The bundle of a document that names the calibration beside it."""
    planning = {} if machine is None else {"planning": {"calibration_file": "mine.toml"}}
    if machine is not None:
        (folder / "mine.toml").write_text(calibration_text(machine))
    file = folder / "sextant.yaml"
    file.write_text(document("private-cloud", **{**PINNED, **planning, **more}))
    return render_document(file)


def count(bundle: Rendered) -> int:
    option = bundle.order.served[0].option
    assert option is not None
    return option.count


def test_a_slow_machine_of_the_users_own_takes_more_accelerators(tmp_path: Path) -> None:
    published, mine = rendered(tmp_path, None), rendered(tmp_path, SLOW)
    assert count(mine) > count(published)
    readme = mine.by_path["README.md"].content.decode()
    assert "`r1-7b` is planned by mine.toml: measured in the hall" in readme
    assert "mine.toml" not in published.by_path["README.md"].content.decode()


def test_a_calibration_of_another_accelerator_is_said_not_to_be_used(tmp_path: Path) -> None:
    elsewhere = msgspec.structs.replace(SLOW, accelerator="h100-sxm")
    mine = rendered(tmp_path, elsewhere)
    assert count(mine) == count(rendered(tmp_path, None))
    readme = mine.by_path["README.md"].content.decode()
    assert (
        "mine.toml was measured with r1-distill-qwen-7b in bf16 on one h100-sxm; `r1-7b` is planned" in readme
    )


def test_a_calibration_of_a_model_that_is_not_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        Misconfigured, match=r"mine\.toml: was measured with deepseek-r1, and .* serves r1-7b"
    ):
        rendered(tmp_path, msgspec.structs.replace(SLOW, model="deepseek-r1"))


def test_a_calibration_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"mine\.toml: the calibration file cannot be read"):
        rendered(tmp_path, None, planning={"calibration_file": "mine.toml"})
