"""`sextant db`: check, back up, restore and migrate the databases of a state directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sextant.base.errors import Misconfigured, SextantError
from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import EXIT_FAILED, out, print_json, with_state

if TYPE_CHECKING:
    from sextant.app.state import StateDir
    from sextant.store.upgrade_backup import Databases, Manifest

app = typer.Typer(help="Check, back up, restore and migrate the databases.", no_args_is_help=True)


@app.command()
def check(state: State = None, json: Json = False) -> None:
    """Look whether the databases are whole and the books agree; also while it runs. Exit status 1: not so."""
    from sextant.store.upgrade import found_schemas
    from sextant.store.upgrade_check import check_databases

    databases = _databases(state_dir(state))
    faults = check_databases(databases)
    if json:
        print_json({"sound": not faults, "faults": faults})
    elif faults:
        for fault in faults:
            print(f"error: {fault}", file=sys.stderr)
    else:
        found = found_schemas(databases)
        out().print(
            f"Sound: accounts (schema {found.accounts or 'none'}), ledger (schema {found.ledger or 'none'}).",
            markup=False,
        )
    if faults:
        sys.exit(EXIT_FAILED)


@app.command()
def backup(
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Put it below this.", show_default="STATE/backups"),
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Copy both databases, also while it runs, into a new folder, and print its name."""
    from sextant.store.upgrade import found_schemas
    from sextant.store.upgrade_backup import make_backup, read_manifest

    databases = _databases(state_dir(state))
    found = found_schemas(databases)
    folder = make_backup(databases, found, made_for="person", into=to.absolute() if to else None)
    manifest = read_manifest(folder)
    if json:
        print_json({"backup": str(folder), "manifest": manifest})
        return
    console = out()
    console.print(str(folder), markup=False)
    for file in manifest.files:
        console.print(f"  {file.name}  {file.bytes} bytes  SHA-256 {file.sha256}", markup=False)


@app.command("list")
def list_backups(state: State = None, json: Json = False) -> None:
    """List the backups in the state directory, oldest first."""
    from sextant.store.upgrade import readable
    from sextant.store.upgrade_backup import list_backups

    found = list_backups(_databases(state_dir(state)))
    if json:
        print_json([{"backup": str(path), "manifest": manifest} for path, manifest in found])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("backup", "made for", "by", "accounts", "ledger", "restorable"):
        table.add_column(column, no_wrap=True)
    for path, manifest in found:
        table.add_row(*_row(path, manifest), "yes" if readable(manifest) else "by a newer Sextant")
    out().print(table)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="As `sextant db list` shows it.")],
    state: State = None,
    json: Json = False,
) -> None:
    """Put a backup in the place of the databases; what was there is moved aside. Refuses while it runs."""
    from sextant.store.upgrade import readable
    from sextant.store.upgrade_backup import read_manifest, restore_backup

    deployment = state_dir(state)
    manifest = read_manifest(folder.absolute())
    if not readable(manifest):
        raise Misconfigured(
            f"{folder} was made by Sextant {manifest.program} with a schema that this program does not know: "
            "restore it with that one"
        )
    deployment.prepare()
    _refuse_running(deployment)
    with deployment.lock():
        aside = restore_backup(_databases(deployment), folder.absolute())
    if json:
        print_json({"restored": str(folder.absolute()), "set_aside": str(aside) if aside else None})
        return
    out().print(f"Restored {folder}." + (f" What was there is in {aside}." if aside else ""), markup=False)


@app.command()
def migrate(
    backup: Annotated[bool, typer.Option(help="Back up first.")] = True,
    state: State = None,
    json: Json = False,
) -> None:
    """Bring the databases to this program's schemas, as the next start would; a backup is made first."""
    from sextant.store.upgrade import bring_up_to_date, known_schemas

    deployment = state_dir(state)
    databases = _databases(deployment)
    _refuse_running(deployment)
    with deployment.lock():
        done = bring_up_to_date(databases, backup=backup)
    if json:
        print_json({"migration": done, "schemas": known_schemas()})
        return
    if done is None:
        known = known_schemas()
        out().print(f"Nothing to do: accounts {known.accounts}, ledger {known.ledger}.", markup=False)
        return
    out().print(
        f"Migrated accounts {done.before.accounts or 'none'} → {done.after.accounts or 'none'}, ledger "
        f"{done.before.ledger or 'none'} → {done.after.ledger or 'none'}. "
        + (f"The state before is in {done.backup}." if done.backup else "No backup was made."),
        markup=False,
    )


def _databases(deployment: StateDir) -> Databases:
    """Raises SextantError when there is nothing in the state directory."""
    from sextant.app.stores import databases_of, noted_store

    if not deployment.root.is_dir():
        raise SextantError(
            f"there is no state directory {deployment.root}; name it with --state DIR, or make one: "
            f"`{with_state('up', deployment)}`"
        )
    return databases_of(deployment, noted_store(deployment))


def _refuse_running(deployment: StateDir) -> None:
    pid = deployment.holder()
    if pid is not None:
        raise SextantError(
            f"Sextant runs with the state directory {deployment.root} (process {pid}); stop it first: "
            f"`{with_state('down', deployment)}`",
            code="already_running",
        )


def _row(path: Path, manifest: Manifest) -> tuple[str, ...]:
    schemas = manifest.schemas
    return str(path), manifest.made_for, manifest.program, schemas.accounts or "-", str(schemas.ledger or "-")
