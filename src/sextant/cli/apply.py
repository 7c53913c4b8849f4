"""`sextant apply`: carries a verified bundle out: its install script here, or `kubectl` for a cluster.

A document goes to the deployment that runs here (`apply_local.py`).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sextant.base.errors import Misconfigured
from sextant.cli.near import check_there
from sextant.cli.options import State, state_dir
from sextant.cli.output import EXIT_FAILED, out
from sextant.cli.verify import Kubernetes, Schemas, show


def apply(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE", help="A rendered bundle, or a document for the deployment that runs here."
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORD", help="For install.sh, after `--`: ./install.sh says which."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before anything is touched.")] = False,
    context: Annotated[
        str, typer.Option("--context", metavar="NAME", help="Context of kubectl.", show_default="its own")
    ] = "",
    site: Annotated[
        str,
        typer.Option("--site", metavar="FOLDER", help="Which cluster's part, of a bundle for several."),
    ] = "",
    k8s: Kubernetes = None,
    schemas: Schemas = None,
    state: State = None,
) -> None:
    """Verify a bundle, say what will be run, ask, and run it; or have what runs here serve another document.

    A bundle with faults, a changed file among them, is refused; of its commands the first that fails is the
    last. A document's new engines start beside the old ones and make a token each before requests go there;
    no request is lost, and when anything fails what served serves on. Exit status: 0 done, 1 refused or
    failed, 3 nothing runs.
    """
    check_there(folder, "a bundle's directory, or a deployment document")
    if not folder.is_dir():
        from sextant.cli.apply_local import apply_file

        given = {"WORD": options, "--context": context, "--site": site, "--k8s": k8s, "--schemas": schemas}
        _check_document_alone(folder, [name for name, value in given.items() if value])
        apply_file(folder, state_dir(state))
        return
    from sextant.operations.bundles import bundle_at
    from sextant.operations.verify.applying import commands_of, run_all
    from sextant.operations.verify.findings import Reached
    from sextant.operations.verify.verifying import verify

    bundle_at(folder)
    commands = commands_of(folder, site=site, context=context, options=tuple(options or ()))
    reached = Reached(context=context, site=site)
    report = verify(folder, kubernetes=k8s, schemas=schemas, reached=reached)
    console = out()
    if report.faults:
        show(report)
        console.print("Refused: put the faults right, and render again.", markup=False)
        raise typer.Exit(EXIT_FAILED)
    for each in report.not_run:
        console.print(f"not run  {each.check}: {each.why}", markup=False)
    console.print(f"{report.name}, {report.mode}: this will be run in {folder}:", markup=False)
    for command in commands:
        console.print(f"  {shlex.join(command)}", markup=False)
    if not yes and not typer.confirm("Go on?"):
        raise typer.Exit(EXIT_FAILED)
    done = run_all(folder, commands, lambda line: console.print(f"  {line}", markup=False))
    for one in done:
        if one.objects:
            console.print(f"Applied {one.objects} objects of {one.command[-1]}", markup=False)
    console.print("Done. What remains (secrets, waiting) stands in README.md under Install.", markup=False)


def _check_document_alone(file: Path, given: list[str]) -> None:
    """Raises Misconfigured for a bundle's file instead of the bundle, and for what only bundles take."""
    if file.suffix not in (".yaml", ".yml") and (file.parent / "MANIFEST.json").is_file():
        raise Misconfigured(f"{file}: is a file of a bundle; apply the bundle: sextant apply {file.parent}")
    if given:
        raise Misconfigured(
            f"{file}: is a document for what runs here, and {', '.join(given)} is for bundles; "
            f"leave it out, or apply what `sextant render {file} -o DIR` writes"
        )
