"""Carrying a bundle out: which commands that takes, and running them one after another."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from sextant.base.config import child_environment, variable
from sextant.base.errors import Misconfigured, Unsupported
from sextant.operations.verify.running import program_of
from sextant.operations.verify.subject import APPLIED

INSTALL = "install.sh"
Command = tuple[str, ...]


def commands_of(
    folder: Path, *, site: str = "", context: str = "", options: Sequence[str] = ()
) -> tuple[Command, ...]:
    """What carries out the bundle in `folder`: its own install script with those options, or `kubectl`'s
    server-side apply of `site`'s part. Raises Misconfigured where kubectl is missing or a site is not named,
    Unsupported for a bundle that is neither."""
    if (folder / INSTALL).is_file():
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
    program = program_of("kubectl")
    if program is None:
        raise Misconfigured("kubectl is not installed, and the bundle is for a cluster; install it")
    told = ("--context", context) if context else ()
    return tuple(
        (program, *told, "apply", "--server-side", "--field-manager=sextant", "-f", part) for part in found
    )


def run_all(folder: Path, commands: Sequence[Command]) -> None:
    """Runs the commands in the bundle's folder, their words on this terminal. Raises Misconfigured at the
    first that fails: the ones before it were carried out."""
    config = variable("KUBECONFIG")
    environment = child_environment({"KUBECONFIG": config} if config else {})
    for command in commands:
        try:
            status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
        except OSError as error:
            raise Misconfigured(f"{command[0]} cannot be started: {error.strerror}") from None
        if status:
            raise Misconfigured(
                f"`{' '.join(command)}` ended with {status}; what came before it was carried out; put right "
                f"what it says and apply again"
            )
