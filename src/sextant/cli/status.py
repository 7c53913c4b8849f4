"""`sextant status`: what runs, and how it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import EXIT_FAILED, out, print_grid, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sextant.control.settings import Status, Sync
    from sextant.spec.sites import ForwardStatus

_ASIDE = " [dim](takes no requests)[/]"
_COLOURS = {"ready": "green", "starting": "cyan", "unwell": "yellow", "waiting": "red", "stopped": "dim"}


def status(state: State = None, json: Json = False) -> None:
    """Show what runs and how it is.

    Exit status: 0 all is ready, 1 something is not, 3 nothing runs.
    """
    from sextant.app.centre_plan import FORWARD_STATUS
    from sextant.cli.admin import not_running
    from sextant.control.settings import read_status, read_sync
    from sextant.spec.sites import read_forward_status

    folder = state_dir(state)
    found = read_status(folder.status_file)
    if folder.holder() is None or found is None:
        if json:
            print_json({"running": False})
        raise not_running(folder)
    troubles = _troubles(found)
    ready = found.ready and not troubles
    centre = read_forward_status(folder.run / FORWARD_STATUS)
    sync = read_sync(folder.sync_file)
    if json:
        import msgspec

        report = {"running": True, "ready": ready, "troubles": troubles}
        if centre is not None:
            report["centre"] = msgspec.to_builtins(centre)
        if sync is not None:
            report["follows"] = msgspec.to_builtins(sync)
        print_json({**report, **msgspec.to_builtins(found)})
    else:
        _show(found, ready=ready, troubles=troubles, more=tuple(_more(found, centre, sync)))
    if not ready:
        raise typer.Exit(EXIT_FAILED)


def _troubles(found: Status) -> list[str]:
    """Why the gateway serves nothing though its process runs; empty when it serves, or cannot be asked."""
    import http.client
    import json

    from sextant.cli.admin import local_connection

    connection = local_connection(found.url)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        said = json.loads(answer.read())
        return [] if answer.status == 200 else [str(reason) for reason in said["reasons"]]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return []  # the table shows how its process is
    finally:
        connection.close()


def _show(found: Status, *, ready: bool, troubles: list[str], more: tuple[tuple[str, str], ...]) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = out()
    mark = "[green]ready[/]" if ready else "[red]not ready[/]"
    console.print(f"Sextant {found.version} is {mark}, up {_span(found.started_ms)} (pid {found.pid})")
    for trouble in troubles:
        console.print(f"  [red]{escape(trouble)}[/]")
    console.print(f"  API         {found.url}/v1")
    console.print(f"  Admin API   {found.control_url}")
    for name, said in more:
        console.print(f"  {name:<11} {escape(said)}", highlight=False)
    console.print()
    table = Table(box=None, pad_edge=False)
    for column in ("process", "state", "since", "pid", "restarts", ""):
        table.add_column(column)
    for process in found.processes:
        colour = _COLOURS.get(process.state, "default")
        table.add_row(
            process.name,
            f"[{colour}]{process.state}[/]{_ASIDE if not process.serves else ''}",
            _span(process.since_ms) if process.since_ms else "",
            str(process.pid or ""),
            str(process.restarts),
            escape(process.reason),
        )
    print_grid(table)


def _more(found: Status, centre: ForwardStatus | None, sync: Sync | None) -> Iterator[tuple[str, str]]:
    """What else there is to say of it: a word and a line each."""
    if found.applied is not None:
        commit = f"{found.applied.revision[:12]} of " if found.applied.revision else ""
        when = _span(found.applied.since_ms)
        yield "Applied", f"{found.applied.name}, {commit}{found.applied.origin}, {when} ago"
    if sync is not None:
        yield "Follows", _sync_shown(found, sync)
    if centre is not None:
        yield "Centre", _centre_shown(centre)


def _sync_shown(found: Status, sync: Sync) -> str:
    """How the deployment stands to its repository, in one line."""
    branch = f" {sync.branch}" if sync.branch else ""
    reached = f"answered {_span(sync.reached_ms)} ago" if sync.reached_ms else "has not answered yet"
    serves = found.applied.revision if found.applied is not None else ""
    how = "in step" if serves and serves == sync.newest else f"behind {sync.newest[:12] or 'it'}"
    trouble = sync.trouble.splitlines()[0] if sync.trouble else ""
    return "; ".join(part for part in (f"{sync.repository}{branch}: {how}", reached, trouble) if part)


def _centre_shown(centre: ForwardStatus) -> str:
    """How forwarding stands, in one line."""
    answered = f"answered {_span(centre.success_ms)} ago" if centre.success_ms else "has not answered yet"
    waiting = "has everything"
    if centre.waiting_rows:
        waiting = f"{centre.waiting_rows} rows wait, the oldest for {_span(centre.waiting_since_ms)}"
    return "; ".join(part for part in (waiting, answered, centre.trouble) if part)


def _span(since_ms: int) -> str:
    """How long ago, in the largest two units."""
    seconds = max(0, int(time.time() - since_ms / 1000))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
