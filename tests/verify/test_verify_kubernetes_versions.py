"""The table of Kubernetes' APIs agrees with Kubernetes' own description of its versions."""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from importlib import resources
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from tests.render.orders import DISTILLED, document

from sextant.operations.bundles import render_document, write
from sextant.operations.verify.file_rules import NOT_SERVED, versions_not_served
from sextant.operations.verify.subject import read_subject

FIRST, LAST = 25, 37
"""The minors whose description comes with kubernetes-validate."""


def rows() -> list[dict[str, Any]]:
    text = resources.files("sextant.spec").joinpath("data", "kubernetes_apis.toml").read_text()
    found: list[dict[str, Any]] = tomllib.loads(text)["api"]
    return found


@pytest.fixture(scope="module")
def served() -> dict[tuple[str, str], set[int]]:
    """API and kind to the minors that describe it; lists, parts of objects and alpha APIs left out."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    base = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    for minor in range(FIRST, LAST + 1):
        for file in (base / f"v1.{minor}.0-local").glob("*.json"):
            named = json.loads(file.read_bytes()).get("x-kubernetes-group-version-kind", [])
            if (
                len(named) == 1
                and not named[0]["kind"].endswith("List")
                and "alpha" not in named[0]["version"]
            ):
                api = "/".join(filter(None, (named[0]["group"], named[0]["version"])))
                found[api, named[0]["kind"]].add(minor)
    del found["v1", "Status"]  # an answer, which older descriptions list under every group
    return found


def test_each_row_says_what_each_version_serves(served: dict[tuple[str, str], set[int]]) -> None:
    wrong = [
        (row["api"], kind, minor)
        for row in rows()
        for kind in row["kinds"]
        for minor in range(FIRST, LAST + 1)
        if (row.get("since", 0) <= minor < row.get("removed", LAST + 1))
        != (minor in served[row["api"], kind])
    ]
    assert wrong == []


def test_no_api_that_came_or_went_is_missing(served: dict[tuple[str, str], set[int]]) -> None:
    known = {(row["api"], kind) for row in rows() for kind in row["kinds"]}
    everything = set(range(FIRST, LAST + 1))
    assert sorted(name for name, minors in served.items() if minors != everything and name not in known) == []
    assert len(known) > 60


@pytest.mark.parametrize(
    ("manifest", "version", "said"),
    [
        (("networking.k8s.io/v1beta1", "ServiceCIDR"), "1.37", "not served since Kubernetes 1.37"),
        (("networking.k8s.io/v1beta1", "ServiceCIDR"), "1.36", ""),
        (("resource.k8s.io/v1", "ResourceClaim"), "1.33", "served from Kubernetes 1.34 on"),
        (("coordination.k8s.io/v1beta1", "Lease"), "v1.36.2", "not served since Kubernetes 1.22"),
        (("coordination.k8s.io/v1beta1", "LeaseCandidate"), "1.36", ""),
    ],
)
def test_an_object_of_such_an_api_is_found(
    tmp_path: Path, manifest: tuple[str, str], version: str, said: str
) -> None:
    file, bundle = tmp_path / "sextant.yaml", tmp_path / "bundle"
    file.write_text(document("private-cloud", **DISTILLED))
    write(render_document(file), bundle)
    api, kind = manifest
    planted = bundle / "manifests/00-accounts.yaml"
    planted.write_text(
        planted.read_text() + f"---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: planted}}\n"
    )
    faults = [f for f in versions_not_served(read_subject(bundle), version) if "planted" in f.what]
    assert [fault.rule for fault in faults] == ([NOT_SERVED] if said else [])
    assert all(said in fault.what for fault in faults)
