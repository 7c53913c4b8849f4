"""`sextant up` and `sextant down`'s other half: starts the deployment in the foreground, or detached."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sextant.base.errors import Misconfigured, SextantError
from sextant.cli.options import State, state_dir

if TYPE_CHECKING:
    from sextant.app.events import Event, Tell
    from sextant.app.plan import Overrides
    from sextant.app.state import StateDir
    from sextant.spec.document import Deployment


def up(
    file: Annotated[
        Path | None, typer.Argument(help="Deployment document; without it, the bundled model is served.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Serve this instead: a GGUF file, a model folder, hf:org/name or modelscope:org/name."
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Engine for --model.", show_default="what fits this machine")
    ] = None,
    state: State = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the API.", show_default="8000")
    ] = None,
    control_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the admin API.", show_default="8001")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once it serves; stop with `down`.")
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain HTTP on an address that others can reach.")
    ] = False,
    last_applied: Annotated[
        bool,
        typer.Option(
            "--last-applied", help="Serve what `apply` or `follow` brought last; FILE where that is nothing."
        ),
    ] = False,
    report_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve a model: engine, ledger, gateway and admin API, until Ctrl-C."""
    from sextant.app.plan import Overrides

    if file is not None and not file.exists():
        raise Misconfigured(f"there is no file {file}; `sextant up` without a file serves the bundled model")
    if file is not None and model is not None:
        raise Misconfigured(f"{file} says what to serve already; give either a document or --model")
    if last_applied and model is not None:
        raise Misconfigured("--last-applied and --model each say what to serve; give one of them")
    if engine is not None and model is None:
        raise Misconfigured("--engine belongs to --model; in a document write spec.engine.kind")
    folder = state_dir(state)
    overrides = Overrides(host=host, port=port, control_port=control_port, insecure=insecure)
    what = What(file, model, engine, last_applied)
    if detach:
        _detached(folder, _arguments(what, folder, overrides))
    elif report_fd is not None:
        _reporting(what, folder, overrides, report_fd)
    else:
        from sextant.cli.start_view import view

        with view(folder, detached=False) as tell:
            _run(what, folder, overrides, tell)


@dataclasses.dataclass(frozen=True)
class What:
    """What to serve: a document, or a model named on the command line, or neither."""

    file: Path | None
    model: str | None
    engine: str | None
    last_applied: bool = False

    def document(self, state: StateDir) -> Deployment:
        """Raises SextantError for a document or a name that is wrong."""
        from sextant.app.applying import kept
        from sextant.app.quick import document_for
        from sextant.spec.document import load_document

        last = kept(state) if self.last_applied else None
        if last is not None:
            return last.wanted.document()
        return load_document(self.file) if self.model is None else document_for(self.model, self.engine)


def _run(what: What, state: StateDir, overrides: Overrides, tell: Tell) -> None:
    from sextant.app.up import run_up
    from sextant.base.config import variable
    from sextant.base.lifeline import PARENT_VARIABLE, bind_to_parent

    parent = variable(
        PARENT_VARIABLE
    )  # set by a program, such as a test, that wants the stack to end with it
    bind_to_parent(int(parent) if parent else None, signal.SIGTERM)
    run_up(what.document(state), state, overrides, tell)


def _arguments(what: What, state: StateDir, overrides: Overrides) -> list[str]:
    given = {
        "--model": what.model,
        "--engine": what.engine,
        "--host": overrides.host,
        "--port": overrides.port,
        "--control-port": overrides.control_port,
        "--state": state.root,
    }
    options = [part for flag, value in given.items() if value is not None for part in (flag, str(value))]
    return [
        *([str(what.file)] if what.file else []),
        *options,
        *(["--insecure"] if overrides.insecure else []),
        *(["--last-applied"] if what.last_applied else []),
    ]


def _detached(state: StateDir, arguments: list[str]) -> None:
    """Starts the supervisor in a session of its own and shows its start. Raises SextantError if that
    fails."""
    import msgspec

    from sextant.app.child import last_words
    from sextant.app.events import Event, Failed, Serving
    from sextant.cli.start_view import view

    state.prepare()
    log = state.logs / "up.log"
    read_fd, write_fd = os.pipe()
    with log.open("ab") as stream, os.fdopen(read_fd, "rb") as reports:
        begin = stream.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "sextant.cli.main", "up", *arguments, "--report-fd", str(write_fd)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            pass_fds=(write_fd,),
            start_new_session=True,
        )
        os.close(write_fd)
        decoder = msgspec.json.Decoder(Event)
        with view(state, detached=True) as tell:
            for line in reports:
                event: Event = decoder.decode(line)
                if isinstance(event, Failed):
                    raise SextantError(event.message, code="start_failed")
                tell(event)
                if isinstance(event, Serving):
                    return
    raise SextantError(
        f"the start ended with exit status {process.wait()}: {last_words(log, begin) or 'nothing was said'}; "
        f"its log is {log}"
    )


def _reporting(what: What, state: StateDir, overrides: Overrides, report_fd: int) -> None:
    """The detached side: events go to the pipe as JSON lines until somebody has heard that it serves."""
    import msgspec

    from sextant.app.events import Failed, Serving

    pipe = os.fdopen(report_fd, "wb", buffering=0)
    os.set_inheritable(report_fd, False)

    def tell(event: Event) -> None:
        if pipe.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            pipe.write(msgspec.json.encode(event) + b"\n")
        if isinstance(event, Serving):
            pipe.close()

    try:
        _run(what, state, overrides, tell)
    except SextantError as error:
        tell(Failed(error.message))
        raise
