"""A bundle on disk as the checks see it: its files, its manifest, and the objects of each cluster."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from sextant.base.errors import Misconfigured
from sextant.operations.bundles import MANIFEST, bundle_at
from sextant.operations.verify.findings import Cluster, Fault, Object
from sextant.spec.bundle import Need, Planned

FILES_MOST = 5_000
FILE_BYTES = 16 * 1024 * 1024
APPLIED = ("cluster/", "manifests/")
"""Folders of a cluster's own files, in the order in which they are applied; others are of parts beside."""
OPTIONAL = "optional/"
"""Folder of alternatives, which nobody applies with the rest."""
UNREADABLE = "SX-V102"
"""The rule that every file can be read as what its name says."""
OURS = "sextant.dev/"
"""API group of the deployment document, which no cluster knows."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is checked."""

    folder: Path
    manifest: Mapping[str, Any]
    texts: Mapping[str, str]
    """Every file by its path; what is no UTF-8 is left out."""
    objects: Mapping[str, tuple[Object, ...]]
    """Kubernetes objects by file."""
    clusters: tuple[Cluster, ...]
    faults: tuple[Fault, ...]
    """What could not be read."""


def read_subject(folder: Path) -> Subject:
    """The bundle in that folder. Raises Misconfigured where there is none, or it is too large to check."""
    manifest = bundle_at(folder)
    texts, faults = _texts(folder)
    objects: dict[str, tuple[Object, ...]] = {}
    for path, text in texts.items():
        try:
            objects[path] = tuple(_objects(path, text))
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            said = " ".join(str(error).split())[:200]
            faults.append(Fault(UNREADABLE, f"cannot be read: {said}", "render the bundle again", path))
    return Subject(
        folder=folder,
        manifest=manifest,
        texts=texts,
        objects=objects,
        clusters=tuple(_clusters(objects, manifest)),
        faults=tuple(faults),
    )


def _texts(folder: Path) -> tuple[dict[str, str], list[Fault]]:
    texts: dict[str, str] = {}
    faults: list[Fault] = []
    for number, place in enumerate(sorted(folder.rglob("*"))):
        if number > FILES_MOST:
            raise Misconfigured(f"{folder}: holds more than {FILES_MOST} files; a bundle holds fewer")
        path = place.relative_to(folder).as_posix()
        if place.is_symlink() or not place.is_file():
            continue
        try:
            if place.stat().st_size > FILE_BYTES:
                raise ValueError(f"larger than {FILE_BYTES} bytes")
            texts[path] = place.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            faults.append(Fault(UNREADABLE, f"cannot be read: {error}", "render the bundle again", path))
    return texts, faults


def _objects(path: str, text: str) -> Iterator[Object]:
    """The Kubernetes objects of a file; other files are read as what their name says, to see that they can
    be."""
    if path.endswith(".json"):
        json.loads(text)
    elif path.endswith(".toml"):
        tomllib.loads(text)
    elif path.endswith((".yaml", ".yml")):
        for body in yaml.load_all(text, Loader=LOADER):
            if isinstance(body, dict) and "apiVersion" in body and "kind" in body:
                if not isinstance(body.get("metadata"), dict):
                    raise ValueError(f"a {body['kind']} without metadata")
                if not str(body["apiVersion"]).startswith(OURS):
                    yield body


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _clusters(objects: Mapping[str, tuple[Object, ...]], manifest: Mapping[str, Any]) -> Iterator[Cluster]:
    """One cluster for each folder that has `manifests/` in it; the bundle's top where that is one."""
    folders = {path.partition("manifests/")[0].rstrip("/") for path in objects if "manifests/" in path}
    if not folders and any(objects.values()):
        folders = {""}
    for folder in sorted(folders):
        start = f"{folder}/" if folder else ""
        inside = [
            (path.removeprefix(start), body)
            for path, bodies in objects.items()
            if path.startswith(start)
            for body in bodies
        ]
        yield Cluster(
            objects=[body for _, body in inside],
            needs=_told(manifest, "needs", tuple[Need, ...]) or (),
            planned=_told(manifest, "planned", tuple[Planned, ...]),
            folder=folder,
            optional=tuple(body for path, body in inside if path.startswith(OPTIONAL)),
        )


def _told(manifest: Mapping[str, Any], key: str, kind: Any) -> Any:
    """A part of the manifest; None in bundles from before it was kept."""
    if key not in manifest:
        return None
    try:
        return msgspec.convert(manifest[key], kind)
    except msgspec.ValidationError as error:
        raise Misconfigured(
            f"{MANIFEST}: `{key}` is not as rendered: {error}; render the bundle again"
        ) from None
