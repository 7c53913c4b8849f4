"""Bundles on disk for tests of `sextant verify`, and copies of them with a mistake in them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.render.host_bundles import HOSTS, HSM, PAIR, with_hosts
from tests.render.orders import DISTILLED, EMBEDDED, R1, document
from tests.render.test_kubernetes_bundles import POOLED

from sextant.operations.bundles import MANIFEST, render_document, write

Object = dict[str, Any]
KINDS: dict[str, str] = {
    "cluster": document("private-cloud", **R1),
    "identities": document("private-cloud", **R1, security={"spiffe": {"trust_domain": "example.org"}}),
    "saas": document("saas", **POOLED),
    "nginx": document("on-prem", **{**with_hosts(DISTILLED, *HOSTS), **PAIR}),
    "haproxy": document("on-prem", **EMBEDDED, delivery={"front": "haproxy"}),
    "triton": document(
        "on-prem",
        **{**DISTILLED, "engine": {"kind": "triton", "backend": "tensorrtllm", "precision": "modelopt"}},
    ),
    "edge": document("edge", **EMBEDDED),
    "hsm": document("on-prem", **EMBEDDED, security={"hsm": HSM}),
    "container": document(
        "container",
        **DISTILLED,
        delivery={
            "registry": "registry.example.com/llm",
            "repository_url": "https://git.example.com/platform/sextant.git",
        },
    ),
}


def rendered(text: str, folder: Path) -> Path:
    """The bundle of a document, on disk below `folder`."""
    source = folder / "deployment.yaml"
    source.write_text(text)
    write(render_document(source), folder / "bundle")
    return folder / "bundle"


def copied(bundle: Path, folder: Path) -> Path:
    """A copy to plant a mistake in."""
    copy = folder / "planted"
    shutil.copytree(bundle, copy)
    return copy


def change_objects(bundle: Path, plant: Callable[[list[Object]], object]) -> None:
    """Plants a mistake among the objects of a bundle's YAML files; new ones go to a file of their own."""
    files = {
        path: [body for body in yaml.safe_load_all(path.read_text()) if body and "kind" in body]
        for path in sorted(bundle.rglob("*.yaml"))
    }
    everything = [body for bodies in files.values() for body in bodies]
    known = list(everything)
    plant(everything)
    for path, bodies in files.items():
        kept = [body for body in bodies if any(body is each for each in everything)]
        path.write_text(yaml.safe_dump_all(kept, sort_keys=False))
    added = everything[len(known) :]
    if added:
        (bundle / "manifests/99-planted.yaml").write_text(yaml.safe_dump_all(added, sort_keys=False))


def sign_again(bundle: Path) -> None:
    """Makes the manifest fit, so that another check than the manifest's has to find the mistake."""
    place = bundle / MANIFEST
    manifest = json.loads(place.read_text())
    manifest["files"] = {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path != place
    }
    place.write_text(json.dumps(manifest))
