"""`sextant apply FILE`: another document for the deployment that runs here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sextant.base.errors import Misconfigured
from sextant.cli.output import out, warn

if TYPE_CHECKING:
    from sextant.app.events import Event
    from sextant.app.state import StateDir


def apply_file(file: Path, state: StateDir) -> None:
    """Has the running deployment serve the document in `file`. Raises SextantError when it serves on what it
    served."""
    from sextant.app.applying import Wanted, apply_document
    from sextant.app.events import Doing, Warned

    def tell(event: Event) -> None:
        if isinstance(event, Warned):
            warn(event.text)
        elif isinstance(event, Doing):
            out().print(event.text, markup=False)

    path = file.absolute()
    wanted = Wanted(_text_of(file), str(file), str(path.parent), origin=str(path))
    wanted.document()  # a document that is wrong is told before anybody is asked
    applied = apply_document(state, wanted, tell)
    out().print(f"{applied.name} is applied.", markup=False)


def _text_of(file: Path) -> str:
    """Bounded: who asks may name a device. One byte too many is refused with the document."""
    from sextant.spec.reading import DOCUMENT_BYTES

    try:
        with file.open("rb") as opened:
            return opened.read(DOCUMENT_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise Misconfigured(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{file} is not UTF-8 text") from None
