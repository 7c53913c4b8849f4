"""A path that is not there: said with what lies near, so that a slip of the hand is seen at once.

Neighbours: `apply.py`, `verify.py`, `diff.py`, `render.py`, which take files and folders.
"""

from __future__ import annotations

import difflib
import itertools
from pathlib import Path

from sextant.base.errors import Misconfigured

NAMES_SHOWN = 3
NAMES_READ_MAX = 1000
"""A folder's names that are looked at: it may hold millions."""
_DOCUMENTS = (".yaml", ".yml")
_BUNDLE = "MANIFEST.json"


def check_there(path: Path, expected: str) -> None:
    """Raises Misconfigured where nothing is at `path`, naming what is near. `expected`: what it should have
    been, such as `a deployment document`."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise Misconfigured(f"{path}: is not there; expected {expected}; {_near(path)}") from None
    except OSError as error:
        raise Misconfigured(f"{path}: cannot be read: {error.strerror}; expected {expected}") from None
    except ValueError:  # a NUL in the name
        raise Misconfigured(f"{str(path)!r}: is no path; expected {expected}") from None


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} is not there either"
    where = str(folder.absolute())
    try:
        found = sorted(one.name for one in itertools.islice(folder.iterdir(), NAMES_READ_MAX))
    except OSError as error:
        return f"the folder {where} cannot be read: {error.strerror}"
    names = difflib.get_close_matches(path.name, found, n=NAMES_SHOWN)
    names = names or [name for name in found if _is_ours(folder / name)][:NAMES_SHOWN]
    if not names:
        return f"{where} holds neither a document nor a bundle"
    return f"did you mean {' or '.join(str(folder / name) for name in names)}?"


def _is_ours(path: Path) -> bool:
    """Whether it looks like a document or a bundle."""
    return path.suffix in _DOCUMENTS or (path / _BUNDLE).is_file()
