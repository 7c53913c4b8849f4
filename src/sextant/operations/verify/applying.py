"""Carrying a bundle out: which commands that takes, running them, and saying what was done when one fails."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from sextant.base.config import child_environment, variable
from sextant.base.errors import Misconfigured, Unsupported
from sextant.operations.verify.running import program_of
from sextant.operations.verify.subject import APPLIED

INSTALL = "install.sh"
SYSTEMD = Path("/run/systemd/system")
"""There where systemd is this machine's first process (sd_booted(3))."""
DONE = re.compile(r" serverside-applied$")
HINTS = (
    (
        re.compile(r"conflict", re.IGNORECASE),
        "a field is kept by somebody else: see whose it is, and let go of it there, or take it with "
        "`kubectl apply --server-side --force-conflicts`",
    ),
    (
        re.compile(r"no matches for kind|CRDs are installed"),
        "the cluster does not know that kind: install what README.md lists under prerequisites",
    ),
    (
        re.compile(r"namespaces .*not found"),
        "a namespace of somebody else's is not there: install what README.md lists under prerequisites",
    ),
    (
        re.compile(r"\(Forbidden\)|is forbidden"),
        "this user may not: apply as one who may, or ask for the right",
    ),
    (
        re.compile(r"\(Unauthorized\)|must be logged in"),
        "the cluster does not know this user: sign in, or name another --context",
    ),
    (
        re.compile(
            r"connection (to the server|refused)|Unable to connect|no such host|i/o timeout|"
            r"context .* does not exist"
        ),
        "the cluster cannot be reached: see `kubectl config get-contexts`, and name one by --context",
    ),
    (
        re.compile(r"\(Invalid\)|is invalid|unknown field"),
        "the API server refuses an object: see what it names",
    ),
)
"""What kubectl says when it fails, and what to do about it; the first that fits."""
LINES_KEPT = 200
Command = tuple[str, ...]


class Applied(msgspec.Struct, frozen=True):
    """What one command did."""

    command: Command
    objects: int
    """Those that the API server took, of a cluster's; 0 for a script."""


def commands_of(
    folder: Path, *, site: str = "", context: str = "", options: Sequence[str] = ()
) -> tuple[Command, ...]:
    """What carries out the bundle in `folder`: its own install script with those options, or `kubectl`'s
    server-side apply of `site`'s part. Raises Misconfigured where kubectl is missing, this machine has no
    systemd, or a site is not named; Unsupported for a bundle that is neither."""
    if (folder / INSTALL).is_file():
        _look_at_this_machine(folder, options)
        return ((f"./{INSTALL}", *options),)
    sites = sorted(path.parent.relative_to(folder).as_posix() for path in folder.glob("*/manifests"))
    if sites and site not in sites:
        raise Misconfigured(
            f"{folder}: is for several clusters; name the one of this context: --site "
            f"{' or --site '.join(sites)}"
        )
    parts = [f"{site}/{name}" if sites else name for name in APPLIED]
    found = [part for part in parts if (folder / part).is_dir()]
    if not found:
        raise Unsupported(f"{folder}: has neither {INSTALL} nor manifests/; see its README.md")
    if options:
        raise Misconfigured(f"{options[0]}: is for an {INSTALL}, which a bundle for a cluster does not have")
    program = program_of("kubectl")
    if program is None:
        raise Misconfigured("kubectl is not installed, and the bundle is for a cluster; install it")
    told = ("--context", context) if context else ()
    return tuple(
        (program, *told, "apply", "--server-side", "--field-manager=sextant", "-f", part) for part in found
    )


def _look_at_this_machine(folder: Path, options: Sequence[str]) -> None:
    """Raises Misconfigured where an installation would end half way, for want of systemd."""
    if "--help" in options or SYSTEMD.is_dir() or not (folder / "systemd").is_dir():
        return
    raise Misconfigured(
        f"{folder}: its services are started by systemd, which does not run this machine; copy the folder to "
        f"the server and apply it there; its README.md says how to try it out in a folder"
    )


def run_all(folder: Path, commands: Sequence[Command], say: Callable[[str], object]) -> tuple[Applied, ...]:
    """Runs the commands in the bundle's folder; `say` gets the lines of kubectl, a script has the terminal.

    Raises Misconfigured at the first that fails, with what was done until then: nothing is taken back."""
    done: list[Applied] = []
    for command in commands:
        lines: list[str] = []
        took = 0

        def heard(line: str, lines: list[str] = lines) -> None:
            nonlocal took
            took += DONE.search(line) is not None
            lines.append(line)
            del lines[:-LINES_KEPT]
            say(line)

        try:
            status = _run(folder, command, heard)
        except KeyboardInterrupt:
            say(f"Interrupted. {_until_then((*done, Applied(command, took)))}")
            raise
        if status:
            raise Misconfigured(
                f"`{shlex.join(command)}` ended with {status}: {_hint(lines)}. "
                f"{_until_then((*done, Applied(command, took)))}"
            )
        done.append(Applied(command, took))
    return tuple(done)


def _run(folder: Path, command: Command, heard: Callable[[str], None]) -> int:
    config = variable("KUBECONFIG")
    environment = child_environment({"KUBECONFIG": config} if config else {})
    told = command[0].startswith("./")
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=None if told else subprocess.PIPE,
            stderr=None if told else subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise Misconfigured(f"{command[0]} cannot be started: {error.strerror}") from None
    with process:
        for line in process.stdout or ():
            heard(line.rstrip("\n"))
        return process.wait()


def _hint(lines: Sequence[str]) -> str:
    said = "\n".join(line for line in lines if not DONE.search(line))
    return next((hint for pattern, hint in HINTS if pattern.search(said)), "put right what it says")


def _until_then(done: Sequence[Applied]) -> str:
    told = [f"{each.objects} objects of {each.command[-1]}" for each in done if each.objects]
    what = " and ".join(told) if told else "nothing"
    return f"Applied until then: {what}. Nothing is taken back, and applying again does no harm"
