"""How the command line speaks: consoles, JSON for scripts, and the two ways in which a command fails."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sextant.base.config import variable
from sextant.base.errors import SextantError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sextant.app.state import StateDir

EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3

PIPE_COLUMNS = 400
"""A table in a pipe must not lose the end of an id to a terminal's width."""
NOT_RUNNING = "not_running"
"""Error code of a command that needs a running deployment."""


def out() -> Console:
    """Standard output, without guessed highlighting; plain, and as wide as need be, when it is no
    terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def print_json(value: Any) -> None:
    """One JSON document and a newline, for scripts."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(text.decode() + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """A plain table, or the sentence `empty` when there are no rows. Columns that end in `>` are numbers."""
    console = out()
    if not rows:
        console.print(empty, markup=False)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    print_grid(table)


def print_grid(table: Table) -> None:
    """A rich table; in a pipe or a file without the blanks that fill up its last column."""
    console = out()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as drawn:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


def print_record(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line; pairs with an empty value are left out."""
    shown = [(name, str(value)) for name, value in pairs if value not in ("", None, ())]
    width = max((len(name) for name, _ in shown), default=0)
    console = out()
    for name, value in shown:
        console.print(f"{name.ljust(width)}  {value}", markup=False)


def warn(message: str) -> None:
    """One sentence on standard error; the command goes on."""
    mark = "\x1b[1;33mwarning:\x1b[0m" if _colourful() else "warning:"
    print(f"{mark} {message}", file=sys.stderr)


def fail(error: SextantError) -> NoReturn:
    """Ends the command with the error's own sentence."""
    mark = "\x1b[1;31merror:\x1b[0m" if _colourful() else "error:"
    print(f"{mark} {error.message}", file=sys.stderr)
    sys.exit(EXIT_NOT_RUNNING if error.code == NOT_RUNNING else EXIT_FAILED)


def _colourful() -> bool:
    return sys.stderr.isatty() and variable("NO_COLOR") is None


def fail_unexpected(error: Exception) -> NoReturn:
    """Ends the command for a fault that is ours: the traceback goes to a file, a sentence to the user."""
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile(
        "w", prefix="sextant-crash-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"{shlex.join(sys.argv[:2])}\n{text}")
    fail(
        SextantError(
            f"this should not have happened ({type(error).__name__}); the details are in {file.name}: please "
            f"report them"
        )
    )


def this_command() -> str:
    """How to call this program again from here: `sextant` when that is it, else its path, relative if
    below."""
    program = Path(sys.argv[0])
    if program.name != "sextant":
        program = Path(sys.executable).with_name("sextant")
    found = shutil.which("sextant")
    if found is not None and Path(found).resolve() == program.resolve():
        return "sextant"
    absolute = Path(os.path.abspath(program))  # noqa: PTH100 - a venv's links must not be followed
    return shlex.quote(short_path(absolute))


def short_path(path: Path) -> str:
    """`path` as seen from here: relative when it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def with_state(command: str, state: StateDir) -> str:
    """`sextant COMMAND`, with `--state` where this state directory is not the usual one."""
    from sextant.app.state import DEFAULT_STATE

    line = f"{this_command()} {command}"
    if state.root == DEFAULT_STATE.absolute():
        return line
    return f"{line} --state {shlex.quote(short_path(state.root))}"
