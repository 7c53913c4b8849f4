"""`sextant follow`: what a branch of a git repository says is what runs here."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sextant.cli.options import State, state_dir
from sextant.cli.output import EXIT_FAILED

if TYPE_CHECKING:
    from types import FrameType

    from sextant.app.following import Follower


def follow(
    repository: Annotated[str, typer.Argument(help="Any address that git takes, a folder too.")],
    branch: Annotated[
        str, typer.Option("--branch", help="Which branch.", show_default="the default one")
    ] = "",
    path: Annotated[str, typer.Option("--path", help="The document in the repository.")] = "sextant.yaml",
    every_s: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, max=86_400, help="How often to look.")
    ] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, apply what is new, and end.")] = False,
    signers: Annotated[
        Path | None,
        typer.Option(
            "--signers",
            metavar="FILE",
            help="Only commits signed with an SSH key of this allowed_signers file.",
        ),
    ] = None,
    allow_rewrite: Annotated[
        bool,
        typer.Option("--allow-rewrite", help="Also a commit that does not follow the one that is applied."),
    ] = False,
    most_mib: Annotated[
        int, typer.Option("--most-mib", min=1, max=65_536, help="Refuse more history, or larger files, MiB.")
    ] = 256,
    state: State = None,
) -> None:
    """Keep the deployment that runs here at the newest commit of a repository.

    A commit that is broken, does not start, does not serve or is not signed changes nothing; the one before
    serves on. SIGHUP has it look at once. Exit status with --once: 0 the newest commit serves, 1 it does not.
    """
    from sextant.app.following import Follower, alone
    from sextant.operations.git_source import GitSource, Wish

    folder = state_dir(state)
    allowed = str(signers.absolute()) if signers else ""
    wish = Wish(_address(repository), branch, path, allowed, allow_rewrite, most_mib)
    source = GitSource(folder.source, wish)
    with alone(folder):
        source.open()
        follower = Follower(folder, source, _say)
        if once:
            if not follower.look(again=True):
                raise typer.Exit(EXIT_FAILED)
            return
        _watch(follower, every_s)


def _watch(follower: Follower, every_s: float) -> None:
    """Until SIGTERM or Ctrl-C, which may come at any moment: the next start goes on from there."""
    poke = threading.Event()

    def on_poke(_number: int, _frame: FrameType | None) -> None:
        poke.set()

    def on_stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGHUP, on_poke)
    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    _say(f"following {follower.sync.repository}, every {every_s:g} s")
    poked = True  # what failed in an earlier life is tried once again
    while True:
        poke.clear()
        follower.look(again=poked)
        poked = poke.wait(follower.wait_s(every_s))


def _address(repository: str) -> str:
    """A folder here by its whole path: git is run elsewhere."""
    return str(Path(repository).absolute()) if Path(repository).is_dir() else repository


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
    sys.stdout.flush()
