"""`sextant down`: stops the deployment in a state directory and waits until it has ended."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

import typer

from sextant.base.errors import SextantError
from sextant.cli.options import State, state_dir
from sextant.cli.output import out

POLL_INTERVAL_S = 0.05


def down(
    state: State = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds that requests under way may take.")
    ] = 40.0,
) -> None:
    """Stop what `sextant up` started; requests under way may end first."""
    folder, console = state_dir(state), out()
    pid = folder.holder()
    if pid is None:
        console.print(f"Nothing runs with the state directory {folder.root}.", markup=False)
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise SextantError(f"process {pid} belongs to another user; stop it as that user") from None
    except ProcessLookupError:
        console.print("It has just ended.")
        return
    deadline = time.monotonic() + timeout_s
    hurried = False
    with console.status(f"Stopping process {pid} …"):
        while folder.holder() == pid:
            now = time.monotonic()
            if now > deadline and not hurried:
                hurried = True
                os.kill(pid, signal.SIGTERM)  # a second one cuts what is under way
            if now > deadline + 15.0:
                raise SextantError(
                    f"process {pid} does not stop; look at {folder.logs / 'supervisor.log'}, or kill it: "
                    f"kill -9 {pid}"
                )
            time.sleep(POLL_INTERVAL_S)
    console.print("Stopped.")
