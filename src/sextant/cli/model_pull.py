"""`sextant model pull` and `rm`: fetch a model by name, with a bar for what takes a while; delete it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sextant.base.errors import Misconfigured
from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import out, print_json, short_path

if TYPE_CHECKING:
    from rich.console import Console

    from sextant.app.pull import DownloadPlan, PullEvent, TellPull

BAR_AFTER_S = 1.0
"""A fetch that is done sooner shows no bar."""


def pull(
    name: Annotated[str, typer.Argument(help="org/name, hf:org/name@revision:file or modelscope:org/name.")],
    token: Annotated[
        str | None, typer.Option("--token", metavar="REF", help="The hub's token: env:NAME or file:/path.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and stop.")] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Fetch a model by name: from Hugging Face, a mirror or ModelScope; goes on where it was cut."""
    from sextant.app.fitting import MEMORY_SHARE
    from sextant.app.machine import memory_free_bytes
    from sextant.app.pull import Access, LocalSource, fetch, parse_source, plan_download

    source = parse_source(name)
    if isinstance(source, LocalSource):
        raise Misconfigured(f"{source.path} is here already: nothing to fetch", field="model")
    access = Access(token_ref=token)
    folder = state_dir(state)
    # What is named is fetched, whatever this machine could run; without a name, what it can run.
    room_bytes = None if source.pattern else int(memory_free_bytes() * MEMORY_SHARE)
    plan = plan_download(source, folder.models, room_bytes=room_bytes, access=access)
    if dry_run:
        _show_plan(plan, json=json)
        return
    folder.prepare()
    with pull_view(out(), quiet=json) as tell:
        path = fetch(plan, folder.models, tell, access=access)
    if json:
        print_json({"path": str(path), "snapshot": plan.snapshot, "label": plan.label})
        return
    out().print(f"{plan.source} is at {short_path(path)}", markup=False)


def remove(
    name: Annotated[
        str, typer.Argument(help="The name that it was fetched by, or a folder that was converted.")
    ],
    state: State = None,
) -> None:
    """Delete what was fetched of a model, in every revision and quantisation, and what was made of it for
    llama.cpp. Of a folder of yours only the latter goes."""
    from sextant.app import pull
    from sextant.app.conversions import forget_conversions

    source = pull.parse_source(name)
    models = state_dir(state).models
    if isinstance(source, pull.LocalSource):
        freed_bytes = forget_conversions(source.path, models)
        if not freed_bytes:
            raise Misconfigured(
                f"{source.path} was neither fetched by name nor converted; delete it yourself", field="model"
            )
        out().print(
            f"Deleted what {source.path} was converted to: {freed_bytes / 1e9:.2f} GB freed", markup=False
        )
        return
    folders = pull.fetched_folders(source, models)
    freed_bytes = pull.remove(source, models)
    freed_bytes += sum(forget_conversions(folder, models) for folder in folders)
    out().print(f"Deleted {source.hub}:{source.repo}: {freed_bytes / 1e9:.2f} GB freed", markup=False)


def _show_plan(plan: DownloadPlan, *, json: bool) -> None:
    if json:
        print_json(plan)
        return
    console = out()
    chosen = f", {plan.label} of {len(plan.alternatives) + 1} quantisations" if plan.alternatives else ""
    console.print(f"{plan.source} at {plan.snapshot[:12]} from {plan.endpoint}{chosen}", markup=False)
    for file in plan.files:
        console.print(f"  {file.size_bytes / 1e9:9.3f} GB  {file.path}", markup=False)
    console.print(
        f"  {plan.total_bytes / 1e9:9.3f} GB in all, {plan.missing_bytes / 1e9:.3f} GB still to be fetched; "
        f"{plan.disk_free_bytes / 1e9:.1f} GB free"
    )
    if plan.alternatives:
        others = ", ".join(f"{label} ({size_bytes / 1e9:.3f} GB)" for label, size_bytes in plan.alternatives)
        console.print(f"Or write {plan.source.hub}:{plan.source.repo}:LABEL for: {others}", markup=False)


@contextlib.contextmanager
def pull_view(console: Console, *, quiet: bool = False) -> Iterator[TellPull]:
    """A `TellPull` that shows a fetch on `console`: a bar on a terminal after a second, else lines."""
    view = PullView(console, quiet=quiet)
    try:
        yield view.tell
    finally:
        view.close()


class PullView:
    """Shows what a fetch tells."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._console = console
        self._quiet = quiet
        self._since_s = time.monotonic()
        self._tenth = -1
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)
        self._shown = False

    def tell(self, event: PullEvent) -> None:
        """Shows `event`."""
        from sextant.app import pull

        match event:
            case pull.Progress():
                self._progress(event.file, event.done_bytes, event.total_bytes)
            case pull.Verifying():
                self._say(f"{event.file}: {event.size_bytes / 1e9:.2f} GB are here already, checking them")
            case pull.Retrying():
                self._say(f"{event.reason}; again in {event.wait_s:.1f} s")
            case pull.WaitingForOther():
                who = f"process {event.pid}" if event.pid else "another process"
                self._say(f"{who} fetches the same model; waiting for it")

    def close(self) -> None:
        if self._shown:
            self._bar.stop()

    def _progress(self, file: str, done_bytes: int, total_bytes: int) -> None:
        late = time.monotonic() - self._since_s >= BAR_AFTER_S
        if self._quiet or not late:
            return
        if not self._console.is_terminal:
            tenth = done_bytes * 10 // max(total_bytes, 1)
            if tenth != self._tenth:
                self._tenth = tenth
                self._say(f"{done_bytes / 1e9:.2f} of {total_bytes / 1e9:.2f} GB, {file}")
            return
        if not self._shown:
            self._shown = True
            self._bar.start()
        self._bar.update(self._task, completed=done_bytes, total=total_bytes, description=Path(file).name)

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, markup=False)
