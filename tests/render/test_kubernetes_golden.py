"""What hybrid, saas and a split plan render for small documents, as written to disk: reviewed as code.

To write it anew after a change that is meant: `SEXTANT_WRITE_GOLDEN=1 pytest` with this file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.render.orders import order
from tests.render.test_kubernetes_bundles import POOLED
from tests.render.test_kubernetes_hybrid import HYBRID
from tests.render.test_kubernetes_split import SMALL
from tests.render.test_kubernetes_training import TRAINING

from sextant.render import render

GOLDEN = Path(__file__).parent / "golden"
HYBRID_SPEC: dict[str, Any] = {
    **HYBRID,
    "overflow": {
        "when": "when_queue_full",
        "models": [{"name": "r1-7b", "at_centre": "r1-7b-public"}],
        "stays": ["board"],
    },
    "training": TRAINING,
}
FILES = {
    "hybrid": (
        "database/pg_hba.conf",
        "database/primary.conf",
        "database/rejoin.sh",
        "database/roles.sql",
        "database/standby.sh",
        "private/manifests/50-gateway.yaml",
        "private/manifests/80-replication.yaml",
        "private/manifests/90-mesh.yaml",
        "private/optional/chaos.yaml",
        "public/cluster/45-training.yaml",
        "public/cluster/60-private-copies.yaml",
        "public/manifests/90-mesh.yaml",
        "public/training/10-job.yaml",
    ),
    "saas": (
        "agreements/data-use.md",
        "cluster/00-namespaces.yaml",
        "cluster/10-roles.yaml",
        "manifests/10-network.yaml",
        "manifests/40-engine-r1-7b-professional.yaml",
        "manifests/70-scaling.yaml",
        "manifests/80-objectives.yaml",
        "manifests/85-portal.yaml",
    ),
    "split": (
        "manifests/40-engine-r1-7b-prefill.yaml",
        "manifests/45-router-r1-7b.yaml",
    ),
}


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, bytes]]:
    bundles = {
        "hybrid": render(order("hybrid", **HYBRID_SPEC)),
        "saas": render(order("saas", **POOLED)),
        "split": render(order("private-cloud", **SMALL)),
    }
    return {name: {file.path: file.content for file in bundle.files} for name, bundle in bundles.items()}


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in FILES.items() for path in paths])
def test_the_files_are_as_they_were_reviewed(made: dict[str, dict[str, bytes]], name: str, path: str) -> None:
    golden = GOLDEN / name / path.replace("/", "--")
    if os.environ.get("SEXTANT_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_bytes(made[name][path])
    assert made[name][path].decode() == golden.read_text()


def test_no_file_is_left_over_from_before() -> None:
    for name, paths in FILES.items():
        there = {file.name for file in (GOLDEN / name).iterdir()}
        assert there == {path.replace("/", "--") for path in paths}
