"""`sextant render`: the document as a bundle of files for its deployment mode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sextant.cli.near import check_there
from sextant.cli.options import Json
from sextant.cli.output import out, print_json

Document = Annotated[Path, typer.Argument(metavar="FILE", help="Deployment document.")]
Lock = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Image digests, one repository:tag@sha256:… a line.",
        show_default="spec.delivery.images_lock",
    ),
]
Facts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML with models and accelerators of your own, as `sextant plan` takes it.",
        show_default="spec.planning.facts_file",
    ),
]


def render(
    file: Document,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Where the bundle goes, whole or not."),
    ],
    images_lock: Lock = None,
    facts: Facts = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a bundle whose files were changed by hand.")
    ] = False,
    json: Json = False,
) -> None:
    """Write everything that the document's mode needs to be deployed, with a README for who does it.

    The same document gives the same bytes. A bundle that stands there is replaced; anything else is not.
    """
    from sextant.catalog.capabilities import check
    from sextant.operations.bundles import render_document, write

    check_there(file, "a deployment document")
    rendered = render_document(file, images_lock=images_lock, facts=facts)
    write(rendered, output, force=force)
    bundle = rendered.bundle
    if json:
        print_json(
            {
                "name": bundle.name,
                "mode": bundle.mode,
                "directory": str(output),
                "document_sha256": rendered.document_sha256,
                "files": [each.path for each in rendered.files],
                "needs": bundle.needs,
                "notes": bundle.notes,
            }
        )
        return
    console = out()
    count = len(rendered.files)
    console.print(f"{bundle.name}: {bundle.mode}, {count} files in {output}", markup=False)
    for served in rendered.order.served:
        option = served.option
        on = f"{option.count} x {option.accelerator.title}" if option is not None else "no accelerator"
        console.print(f"  {served.entry.name}: {served.entry.engine.kind} on {on}", markup=False)
    for said in check(rendered.order):
        console.print(f"  {said}", markup=False)
    papers = f"{len(bundle.needs)} prerequisites and {len(bundle.notes)} notes"
    console.print(f"Read {output / 'README.md'} next: {papers}.", markup=False)
