"""Triton's model configurations are found wherever a bundle keeps them, and left undone aloud."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.render.orders import DISTILLED, document
from tests.verify.bundles_under_test import rendered

from sextant.operations.verify import triton_config
from sextant.operations.verify.subject import read_subject
from sextant.operations.verify.triton_config import BY_TRITON, judge_triton

BEHIND = {**DISTILLED, "engine": {"kind": "triton", "backend": "tensorrtllm"}}
PLACES = {
    "files": document("on-prem", **BEHIND),
    "compose": document("on-prem", **BEHIND, delivery={"orchestration": "compose"}),
    "ConfigMap": document("private-cloud", **BEHIND),
}


@pytest.mark.parametrize("place", PLACES)
def test_each_is_read_where_it_stands(place: str, tmp_path: Path) -> None:
    bundle = rendered(PLACES[place], tmp_path)
    good = judge_triton(read_subject(bundle))
    assert (good.faults, [(ran.check, ran.count) for ran in good.ran]) == ((), [(BY_TRITON, 1)])
    for file in bundle.rglob("*"):
        if file.is_file() and "decoupled: true" in (text := file.read_text()):
            file.write_text(text.replace("decoupled: true", "decouple: true"))
    (fault,) = judge_triton(read_subject(bundle)).faults
    assert fault.rule == BY_TRITON and "decouple" in fault.what


def test_without_nvidias_client_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton_config._messages.cache_clear()
    monkeypatch.setattr(triton_config.importlib.util, "find_spec", lambda name: None)
    subject = read_subject(rendered(PLACES["files"], tmp_path))
    (left,) = judge_triton(subject).not_run
    assert left.check == BY_TRITON and "pip install 'sextant-llm[verify]'" in left.why
