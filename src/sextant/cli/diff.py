"""`sextant diff`: what a change of the document changes in what it is rendered to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sextant.cli.near import check_there
from sextant.cli.options import Json
from sextant.cli.output import EXIT_FAILED, out, print_json, warn
from sextant.cli.render import Facts, Lock

if TYPE_CHECKING:
    from sextant.spec.bundle import File

MARKS = {"added": "+", "removed": "-", "changed": "~"}


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A bundle's directory, or a document.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The document as it is now, or a bundle.")],
    images_lock: Lock = None,
    facts: Facts = None,
    json: Json = False,
) -> None:
    """Show what differs between two bundles: value by value for Kubernetes objects, else line by line.

    Exit status: 0 nothing, 1 something.
    """
    from sextant.operations.bundles_diff import changes

    found = changes(_files(old, images_lock, facts), _files(new, images_lock, facts))
    if json:
        print_json({"changes": found})
    else:
        console = out()
        for change in found:
            what = f" {change.what}" if change.what else ""
            console.print(f"{MARKS[change.kind]} {change.path}{what}", markup=False)
            for line in change.lines:
                console.print(f"    {line}", markup=False)
        if not found:
            console.print("Nothing differs.", markup=False)
    if found:
        raise typer.Exit(EXIT_FAILED)


def _files(place: Path, lock: Path | None, facts: Path | None) -> Mapping[str, File]:
    from sextant.operations.bundles import bundle_at, changed_files, read, render_document

    check_there(place, "a bundle's directory, or a deployment document")
    if place.is_dir():
        for path in changed_files(place, bundle_at(place)):
            warn(f"{place}: {path} is not as it was rendered; what you see is what stands there")
        return read(place)
    return render_document(place, images_lock=lock, facts=facts).by_path
