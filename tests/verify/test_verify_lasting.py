"""Images by tag: wherever a bundle names one, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.render.orders import DISTILLED, document

from sextant.operations.bundles import render_document, write
from sextant.operations.verify.lasting import images_by_tag
from sextant.operations.verify.subject import read_subject

DIGEST = "sha256:" + "a" * 64


def by_tag(folder: Path, mode: str, lock: str = "", **delivery: object) -> frozenset[str]:
    (folder / "images.lock").write_text(lock)
    told = {"images_lock": "images.lock", **delivery}
    file = folder / "sextant.yaml"
    file.write_text(document(mode, **DISTILLED, delivery=told))
    write(render_document(file), folder / "out")
    return images_by_tag(read_subject(folder / "out"))


def test_objects_pipelines_dockerfiles_and_compose_files_are_read(tmp_path: Path) -> None:
    registry = "registry.example.com/llm"
    found = by_tag(tmp_path, "container", registry=registry, repository_url="https://git.example.com/a.git")
    for where in (
        "vllm/vllm-openai",  # an engine's pod
        "elasticsearch/elasticsearch",  # an object of Elastic's operator
        "library/python",  # a Dockerfile
        "prom/alertmanager",  # the compose file
        "sextant-ci",  # the pipelines
    ):
        assert [image for image in found if image.startswith(f"{registry}/{where}:")], where


@pytest.mark.parametrize("mode", ["container", "on-prem"])
def test_what_is_locked_is_not_listed(mode: str, tmp_path: Path) -> None:
    delivery = {"orchestration": "compose"} if mode == "on-prem" else {}
    before = by_tag(tmp_path, mode, **delivery)
    engine = next(image for image in before if "vllm-openai" in image)
    assert by_tag(tmp_path, mode, lock=f"{engine}@{DIGEST}\n", **delivery) == before - {engine}
