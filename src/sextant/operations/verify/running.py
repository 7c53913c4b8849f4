"""Running somebody else's program over a copy of a bundle: in time, without network, at paths of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from sextant.base.config import child_environment, variable
from sextant.operations.verify.findings import Fault, NotRun, Outcome, Ran

TOOL_S = 60.0
"""The longest that one run of a validator may take."""
SAID_CHARS = 600
"""So much of what a validator said is shown."""
MORE_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where servers lie that an ordinary user's PATH leaves out."""
INSTALLED = re.compile(r"(?<![\w.])/(opt|etc|var/lib|run)/sextant")


class Bench(msgspec.Struct, frozen=True):
    """Where validators work: a copy of the bundle with the paths of an installation below `root`."""

    top: Path
    root: Path
    isolation: tuple[str, ...]
    """What goes before a command so that it has no network; empty where the machine does not allow that."""


class Said(msgspec.Struct, frozen=True):
    """What a program printed and how it ended."""

    status: int
    text: str

    @property
    def complaint(self) -> str:
        """Empty, or everything it said: for programs that must be silent."""
        return self.text or ("" if self.status == 0 else f"ended with {self.status}")

    @property
    def failure(self) -> str:
        """Empty where it ended with 0; else everything it said."""
        return "" if self.status == 0 else self.text or f"ended with {self.status}"


class CannotRun(Exception):
    """A validator is here and cannot judge; the message says why."""


class Validator(msgspec.Struct, frozen=True, kw_only=True):
    """A program that judges some files of a bundle."""

    name: str
    program: str
    others: tuple[str, ...] = ()
    """Programs that do as well where the first is not here."""
    patterns: tuple[str, ...]
    of: str
    """What it looks at."""
    run: Callable[[Bench, str, Sequence[Path]], Iterable[tuple[Path, str]]]
    """Yields files and what is wrong with each. Raises CannotRun."""
    action: str = "put right what it names, in the document where that is its source"


def judge(validator: Validator, bench: Bench) -> Outcome:
    """What one validator says; a note where it is not here, nothing where it has nothing to look at."""
    paths = sorted({path for pattern in validator.patterns for path in bench.top.glob(pattern)})
    if not paths:
        return Outcome()
    program = next(filter(None, map(program_of, (validator.program, *validator.others))), None)
    if program is None:
        return Outcome(not_run=(NotRun(validator.name, f"{validator.program} is not installed"),))
    try:
        faults = tuple(
            Fault(
                validator.name, shown(said, bench), validator.action, path.relative_to(bench.top).as_posix()
            )
            for path, said in validator.run(bench, program, paths)
            if said
        )
    except CannotRun as error:
        return Outcome(not_run=(NotRun(validator.name, str(error)),))
    return Outcome(faults=faults, ran=(Ran(validator.name, len(paths), validator.of),))


def said_by(
    command: Sequence[str | Path], bench: Bench, *, networked: bool = False, timeout_s: float = TOOL_S
) -> Said:
    """What a command says in the bench. Raises CannotRun where it takes too long or cannot be started."""
    before = () if networked else bench.isolation
    told = {"KUBECONFIG": config} if networked and (config := variable("KUBECONFIG")) else {}
    try:
        process = subprocess.Popen(
            [*before, *(str(word) for word in command)],
            cwd=bench.top,
            env=child_environment({"SYSTEMD_UNIT_PATH": f"{bench.top / 'systemd'}:", **told}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise CannotRun(f"{command[0]} cannot be started: {error.strerror}") from None
    try:
        text, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise CannotRun(f"{Path(str(command[0])).name} took longer than {timeout_s:.0f} s") from None
    finally:
        # It has a session of its own, which Ctrl-C does not reach.
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Said(process.returncode, text.decode(errors="replace").strip())


def program_of(name: str) -> str | None:
    """The path of a program, also where an ordinary user's PATH does not look: servers' folders, and that of
    this Python, where pip puts them; None: not here."""
    own = Path(sys.executable).parent
    return shutil.which(name, path=f"{variable('PATH') or ''}:{own}:{MORE_PATHS}")


def shown(text: str, bench: Bench) -> str:
    """What a validator said, with the bench's paths as the bundle's own, and not too long."""
    said = text.replace(f"{bench.root}", "").replace(f"{bench.top}/", "")
    return said if len(said) <= SAID_CHARS else f"{said[:SAID_CHARS]} …"


def set_up(folder: Path, place: Path) -> Bench:
    """A bench below `place` for the bundle in `folder`: every file copied, programs and a certificate where
    the units and servers expect them."""
    bench = Bench(place / "bundle", place / "root", _isolation())
    for file in sorted(folder.rglob("*")):
        if file.is_symlink() or not file.is_file():
            continue
        copy = bench.top / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_bytes().decode("utf-8", errors="surrogateescape")
        moved = INSTALLED.sub(rf"{bench.root}/\1/sextant", text)
        copy.write_bytes(moved.encode("utf-8", errors="surrogateescape"))
        copy.chmod(file.stat().st_mode & 0o777 | 0o600)
    for name in ("etc/sextant/tls", "run/sextant", "var/lib/sextant", "bin"):
        (bench.root / name).mkdir(parents=True, exist_ok=True)
    for unit in bench.top.glob("**/systemd/*.service"):
        _stand_in(unit, bench.root)
    return bench


def _stand_in(unit: Path, root: Path) -> None:
    """Empty programs for what a unit starts and this machine does not have: what is judged is the unit."""
    text = unit.read_text(encoding="utf-8", errors="replace")
    for program in set(re.findall(r"^Exec\w+=[-@:+!|]*(/\S+)", text, re.MULTILINE)):
        place = Path(program)
        if place.exists():
            continue
        if not place.is_relative_to(root):
            place = root / "bin" / place.name
            text = re.sub(
                rf"^(Exec\w+=[-@:+!|]*){re.escape(program)}(?=\s|$)", rf"\1{place}", text, flags=re.M
            )
            unit.write_text(text, encoding="utf-8")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("#!/bin/sh\n", encoding="utf-8")
        place.chmod(0o755)


def _isolation() -> tuple[str, ...]:
    """`unshare` with a network of its own, where this user may."""
    program = program_of("unshare")
    if program is None:
        return ()
    rights = () if os.geteuid() == 0 else ("--map-root-user",)
    command = (program, *rights, "--net", "--")
    tried = subprocess.run([*command, "true"], capture_output=True, timeout=TOOL_S, check=False)
    return command if tried.returncode == 0 else ()
