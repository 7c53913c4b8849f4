"""Bundles: from a document to files on disk. Joins planner and render, which are pure, and writes the result.

A bundle is written into a new folder beside its place and renamed, so that whoever looks sees the old one or
the new one whole. Neighbours: `bundles_plan.py` (hardware), `bundles_diff.py` (what a change changes).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

import sextant
from sextant.base.errors import BadDocument, Misconfigured, SextantError
from sextant.catalog import capabilities
from sextant.catalog.arguments import remarks
from sextant.catalog.images import skews
from sextant.operations.bundles_calibration import calibration_notes
from sextant.operations.bundles_plan import served_models
from sextant.planner.cost import cost_of
from sextant.planner.local_speed import local_predictor
from sextant.planner.options import Tools
from sextant.planner.roofline import predictor
from sextant.render import render
from sextant.render.dumping import json_file
from sextant.render.readme import readme_file
from sextant.spec.bundle import Bundle, File, Planned
from sextant.spec.calibration import load_calibration
from sextant.spec.document import Deployment, parse_document
from sextant.spec.facts import load_catalog
from sextant.spec.hardware_prices import load_prices
from sextant.spec.local_calibration import LocalCalibration, read_calibration
from sextant.spec.reading import DOCUMENT_BYTES
from sextant.spec.render_data import load_facts, load_images, load_profile
from sextant.spec.rendering import Order, ServedModel

MANIFEST = "MANIFEST.json"
MADE_BY = "sextant render"
OWN_BYTES = 1024 * 1024


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle with its README and manifest, ready to be written."""

    bundle: Bundle
    files: tuple[File, ...]
    """All of them, sorted by path."""
    order: Order
    document_sha256: str

    @property
    def by_path(self) -> Mapping[str, File]:
        return {file.path: file for file in self.files}


def render_document(
    document: Path, *, images_lock: Path | None = None, facts: Path | None = None
) -> Rendered:
    """The bundle of the document in that file. `images_lock`, and `facts` with models and accelerators of the
    user's own, win over those that the document names; what it names is looked for beside it.

    Raises BadDocument, and Unsupported with the reason for what cannot be rendered."""
    data = _bytes(document)
    text = data.decode("utf-8-sig", errors="replace")
    deployment = parse_document(text, name=str(document))
    said, beside = deployment.spec, document.parent
    own = OwnFiles(
        images_lock=images_lock or _beside(beside, said.delivery.images_lock),
        facts=facts or _beside(beside, said.planning.facts_file),
        prices=_beside(beside, said.planning.prices_file),
        calibration=_beside(beside, said.planning.calibration_file),
    )
    order = order_of(deployment, own)
    told = calibration_notes(order, _machine(own), said.planning.calibration_file or "")
    bundle = render(order)
    notes = (*capabilities.check(order), *skews(order), *remarks(order), *told, *bundle.notes)
    noted = msgspec.structs.replace(bundle, notes=notes)
    digest = hashlib.sha256(data).hexdigest()
    return Rendered(
        bundle=noted, files=_with_papers(noted, order, digest), order=order, document_sha256=digest
    )


class OwnFiles(msgspec.Struct, frozen=True):
    """Files of the user's own that rendering goes by."""

    images_lock: Path | None = None
    facts: Path | None = None
    prices: Path | None = None
    calibration: Path | None = None
    """What `sextant plan --calibrate` wrote."""


def order_of(deployment: Deployment, own: OwnFiles | None = None) -> Order:
    """What rendering is given for that document: plans on its sites, images, facts, its profile's defaults.

    Raises Unsupported where the capability matrix refuses it, or nothing fits the hardware."""
    spec = deployment.spec
    facts = load_facts()
    own = own or OwnFiles()
    catalog = load_catalog(*_own_text(own.facts, "facts file"))
    prices = load_prices(*_own_text(own.prices, "prices file"))
    predict, machine = predictor(load_calibration()), _machine(own)
    if machine is not None:
        predict = local_predictor(machine, predict)
    tools = Tools(predict=predict, cost=cost_of(prices))
    order = Order(
        deployment=deployment,
        served=served_models(deployment, facts, catalog, tools),
        images=load_images(
            sextant.__version__,
            lock=_own_text(own.images_lock, "images lock")[0],
            lock_name=str(own.images_lock),
            registry=spec.delivery.registry or "",
        ),
        facts=facts,
        version=sextant.__version__,
        defaults=load_profile(spec.profile),
    )
    capabilities.check(order)
    return order


def write(rendered: Rendered, folder: Path, *, force: bool = False) -> None:
    """Writes the bundle to `folder`, whole or not at all. A bundle of ours that stands there is replaced.

    Raises Misconfigured where something else stands there, or a file of that bundle was changed or added
    since (`force` replaces it all the same), or the place cannot be written."""
    _may_replace(folder, force=force)
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=parent))
    except OSError as error:
        raise Misconfigured(f"{parent}: cannot be written: {error.strerror}; name another folder") from None
    try:
        _write_files(made, rendered.files)
        _put_in_place(made, folder)
    except OSError as error:
        raise Misconfigured(f"{folder}: cannot be written: {error.strerror}; name another folder") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def read(folder: Path) -> Mapping[str, File]:
    """The files of a bundle on disk, its README and manifest among them.

    Raises Misconfigured where it is no bundle of ours, or a file of it is missing."""
    manifest = bundle_at(folder)
    found = {}
    for path in (*manifest["files"], MANIFEST):
        place = folder / path
        try:
            found[path] = File(path, place.read_bytes(), os.access(place, os.X_OK))
        except OSError as error:
            raise Misconfigured(
                f"{place}: cannot be read: {error.strerror}; the bundle is not whole, render it again"
            ) from None
    return found


def bundle_at(folder: Path) -> dict[str, Any]:
    """The manifest of the bundle in that folder. Raises Misconfigured where there is none."""
    manifest = manifest_of(folder)
    if manifest is not None:
        return manifest
    if folder.is_file():
        raise Misconfigured(f"{folder}: is a file, not a bundle; `sextant render {folder} -o DIR` makes one")
    if not folder.exists():
        raise Misconfigured(f"{folder}: is not there; name a folder that `{MADE_BY}` wrote")
    raise Misconfigured(
        f"{folder}: is no bundle: it has no {MANIFEST} of `{MADE_BY}`; name the folder that was given to "
        f"`{MADE_BY} -o`"
    )


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a bundle of ours; None where there is none. Raises Misconfigured for a damaged one."""
    place = folder / MANIFEST
    try:
        manifest = json.loads(place.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{place}: cannot be read: {error}; remove the folder, or name another") from None
    if not isinstance(manifest, dict) or manifest.get("made_by") != MADE_BY:
        return None
    files = manifest.get("files")
    sound = isinstance(files, dict) and all(_inside(path) for path in files)
    if not sound:
        raise Misconfigured(f"{place}: names files outside of the bundle, or none; remove the folder")
    return manifest


def changed_files(folder: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a bundle on disk is not as it was rendered: changed, missing or added, by path."""
    listed: Mapping[str, str] = manifest["files"]
    there = {path for path in _paths(folder) if path != MANIFEST}
    differing = {
        path
        for path in there & set(listed)
        if hashlib.sha256((folder / path).read_bytes()).hexdigest() != listed[path]
    }
    return tuple(sorted(differing | (there ^ set(listed))))


def _bytes(document: Path) -> bytes:
    try:
        with document.open("rb") as opened:
            data = opened.read(DOCUMENT_BYTES + 1)
    except IsADirectoryError:
        raise BadDocument(f"{document}: is a folder; name the document in it, such as sextant.yaml") from None
    except OSError as error:
        raise BadDocument(
            f"{document}: cannot be read: {error.strerror}; name a deployment document"
        ) from None
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadDocument(f"{document}: is not valid UTF-8; save the file as UTF-8") from None
    return data


def _beside(folder: Path, name: str | None) -> Path | None:
    return None if name is None else folder / name


def _machine(own: OwnFiles) -> LocalCalibration | None:
    """The user's own calibration. Raises Misconfigured for one that is wrong."""
    text, name = _own_text(own.calibration, "calibration file")
    return read_calibration(text, name) if name else None


def _own_text(file: Path | None, what: str) -> tuple[str, str]:
    """Text and name of a file of the user's; empty without one. Raises Misconfigured."""
    if file is None:
        return "", ""
    try:
        with file.open("rb") as opened:
            data = opened.read(OWN_BYTES + 1)
    except OSError as error:
        raise Misconfigured(
            f"{file}: the {what} cannot be read: {error.strerror}; write it, or take its name out of the "
            f"document"
        ) from None
    if len(data) > OWN_BYTES:
        raise Misconfigured(f"{file}: the {what} is larger than {OWN_BYTES} bytes; expected a short file")
    try:
        return data.decode("utf-8-sig"), str(file)
    except UnicodeDecodeError:
        raise Misconfigured(f"{file}: the {what} is not UTF-8 text") from None


def _with_papers(bundle: Bundle, order: Order, digest: str) -> tuple[File, ...]:
    """The bundle's files with README and manifest. Raises SextantError where a renderer named a file twice,
    or outside of the bundle."""
    files = {file.path: file for file in bundle.files}
    wrong = [path for path in files if not _inside(path) or path in (MANIFEST, "README.md")]
    if wrong or len(files) != len(bundle.files):
        raise SextantError(f"the bundle of {order.mode} names files that it must not: {wrong or 'one twice'}")
    readme = readme_file(bundle, order)
    all_ = {**files, readme.path: readme}
    manifest = {
        "made_by": MADE_BY,
        "name": bundle.name,
        "mode": bundle.mode,
        "version": order.version,
        "document_sha256": digest,
        "needs": msgspec.to_builtins(bundle.needs),
        "planned": [msgspec.to_builtins(each) for served in order.served for each in _planned(served)],
        "files": {path: hashlib.sha256(all_[path].content).hexdigest() for path in sorted(all_)},
    }
    all_[MANIFEST] = json_file(MANIFEST, manifest)
    return tuple(all_[path] for path in sorted(all_))


def _planned(served: ServedModel) -> tuple[Planned, ...]:
    """What is planned of the model: one engine, or with prefill and decode apart one for each."""
    option = served.option if served.vendor != "cpu" else None
    whole = Planned(
        model=served.key,
        engine=served.entry.engine.kind,
        accelerators=option.count if option is not None else 0,
        replica=option.layout.replica if option is not None else 0,
        load_s=round(served.load_s, 1),
    )
    if option is None or option.layout.prefill is None or option.layout.decode is None:
        return (whole,)
    halves = {"prefill": option.layout.prefill, "decode": option.layout.decode}
    return tuple(
        msgspec.structs.replace(
            whole, model=f"{served.key}-{name}", accelerators=half.count, replica=half.replica
        )
        for name, half in halves.items()
    )


def _inside(path: object) -> bool:
    if not isinstance(path, str) or not path or "\\" in path or "\x00" in path:
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and str(pure) == path


def _may_replace(folder: Path, *, force: bool) -> None:
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise Misconfigured(f"{folder}: is no directory; name a folder that is new, empty or a bundle")
    manifest = manifest_of(folder)
    if manifest is None:
        if any(folder.iterdir()):
            raise Misconfigured(
                f"{folder}: holds files that are no bundle of ours, which would be lost; "
                f"name a folder that is new, empty or a bundle"
            )
        return
    changed = changed_files(folder, manifest)
    if changed and not force:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise Misconfigured(
            f"{folder}: was changed since it was rendered ({shown}), which would be lost; move that "
            f"elsewhere, or say --force"
        )


def _write_files(made: Path, files: tuple[File, ...]) -> None:
    made.chmod(0o755)
    for file in files:
        place = made / file.path
        for part in reversed(place.relative_to(made).parents[:-1]):
            (made / part).mkdir(mode=0o755, exist_ok=True)
            (made / part).chmod(0o755)
        place.write_bytes(file.content)
        place.chmod(0o755 if file.executable else 0o644)


def _put_in_place(made: Path, folder: Path) -> None:
    """Renames the new bundle to its place; the old one comes back where that fails."""
    aside = made.with_name(f"{made.name}.old")
    stood = folder.exists()
    if stood:
        folder.rename(aside)
    try:
        made.rename(folder)
    except BaseException:  # whatever it is, Ctrl-C too: the old one comes back and it is raised again
        if stood and not folder.exists():
            aside.rename(folder)
        raise
    if stood:
        with contextlib.suppress(OSError):
            shutil.rmtree(aside)


def _paths(folder: Path) -> Iterator[str]:
    for place in sorted(folder.rglob("*")):
        if not place.is_dir() or place.is_symlink():
            yield place.relative_to(folder).as_posix()
