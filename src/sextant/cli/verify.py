"""`sextant verify`: checks a rendered bundle with our own rules and every validator at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sextant.cli.near import check_there
from sextant.cli.options import Json
from sextant.cli.output import EXIT_FAILED, out, print_json

if TYPE_CHECKING:
    from sextant.operations.verify.findings import Report

Bundle = Annotated[Path, typer.Argument(metavar="DIR", help="A rendered bundle.")]
Kubernetes = Annotated[
    str | None,
    typer.Option("--k8s", metavar="VERSION", help="The cluster's version, like 1.36: which APIs it serves."),
]
Schemas = Annotated[
    Path | None,
    typer.Option(
        "--schemas",
        metavar="DIR",
        help="Schemas of Kubernetes and custom resources.",
        show_default="$SEXTANT_K8S_SCHEMAS, or kubernetes-validate",
    ),
]


def verify(
    folder: Bundle,
    k8s: Kubernetes = None,
    schemas: Schemas = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Fail, too, where a check could not run.")
    ] = False,
    json: Json = False,
) -> None:
    """Check a rendered bundle: our own rules, and every validator that is installed, over a copy of it.

    What could not run is listed with the reason and never counts as passed. Exit status: 0 no fault, 1 some.
    """
    from sextant.operations.verify.verifying import verify as checked

    check_there(folder, "the directory of a bundle")
    report = checked(folder, kubernetes=k8s, schemas=schemas)
    if json:
        print_json(
            {
                "name": report.name,
                "mode": report.mode,
                "faults": report.faults,
                "ran": report.ran,
                "not_run": report.not_run,
                "noted": report.noted,
                "unpinned": report.unpinned,
                "complete": report.complete,
            }
        )
    else:
        show(report)
    if report.faults or (complete and not report.complete):
        raise typer.Exit(EXIT_FAILED)


def show(report: Report) -> None:
    """The report for people: faults first, then what ran, what did not, and the verdict."""
    console = out()
    for fault in report.faults:
        where = f"{fault.path}: " if fault.path else ""
        console.print(f"{fault.rule}  {where}{fault.what}", markup=False)
        console.print(f"    {fault.action}", markup=False)
    for ran in report.ran:
        console.print(f"ran      {ran.check}: {ran.count} {ran.of}", markup=False)
    for each in report.not_run:
        console.print(f"not run  {each.check}: {each.why}", markup=False)
    for note in report.noted:
        console.print(f"declared {note.rule}  {note.what}: {note.why}", markup=False)
    for image in report.unpinned:
        console.print(f"by tag   {image}", markup=False)
    left = (
        "" if report.complete else f"; {_counted(len(report.not_run), 'check')} did not run, which is no pass"
    )
    console.print(
        f"{report.name}, {report.mode}: {_counted(len(report.faults), 'fault')}{left}.", markup=False
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
