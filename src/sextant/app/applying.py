"""Asking a running deployment to serve another document: the words, and the side that asks.

The supervisor answers on a Unix socket in `run/` (`apply_door.py`), which only the deployment's own user can
reach: one line of JSON in, events as lines back, `Done` or `Refused` last. Who asks may vanish: what was
begun is carried to its end all the same.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sextant.app.events import Doing, Tell, Warned
from sextant.app.state import StateDir
from sextant.base.errors import Misconfigured, Permanent, Retryable, SextantError
from sextant.control.settings import Applied, Status, read_status
from sextant.spec.document import Deployment, parse_document

ANSWER_TIMEOUT_S = 4 * 3600.0
"""Fetching and starting a large model takes hours; the supervisor's own bounds end it before."""
OPENS_WITHIN_S = 5.0
"""A deployment that serves opens the socket so much later at most."""


class Wanted(msgspec.Struct, frozen=True):
    """A document, as it was read. Relative paths in it start at `folder`."""

    text: str
    name: str
    """What messages call it: its path."""
    folder: str
    revision: str = ""
    origin: str = ""
    path: str = ""

    def document(self) -> Deployment:
        """Raises BadDocument."""
        return parse_document(self.text, name=self.name, folder=Path(self.folder))


class Done(msgspec.Struct, frozen=True, tag=True):
    """It serves what was wanted."""

    applied: Applied


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It serves what it served before. `again`: asking again may help."""

    message: str
    code: str
    again: bool


Reply = Doing | Warned | Done | Refused


class Kept(msgspec.Struct, frozen=True):
    """What was applied last, kept for the next start."""

    wanted: Wanted
    applied: Applied


def apply_document(state: StateDir, wanted: Wanted, tell: Tell) -> Applied:
    """Has the deployment in `state` serve `wanted`; returns once it does, with `tell` hearing of the way.

    Raises SextantError with the deployment's own reason when it goes on serving what it served before, a
    Permanent one where asking again helps nothing; Misconfigured with code `not_running` when nothing runs.
    """
    for reply in _replies(state, wanted):
        if isinstance(reply, Done):
            return reply.applied
        if isinstance(reply, Refused):
            raise (Retryable if reply.again else Permanent)(reply.message, code=reply.code)
        tell(reply)
    raise Retryable(
        "the deployment ended before it said whether it took the document; see `sextant status`",
        code="stopped_meanwhile",
    )


def running(state: StateDir) -> Status:
    """The status of the deployment in `state`. Raises Misconfigured (code `not_running`) when none serves."""
    found = read_status(state.status_file)
    if state.holder() is None or found is None:
        raise Misconfigured(
            f"nothing runs with the state directory {state.root}; start it with `sextant up`",
            code="not_running",
        )
    return found


def kept(state: StateDir) -> Kept | None:
    """What was applied last in `state`; None where nothing was. Raises Misconfigured for a damaged file."""
    try:
        return msgspec.json.decode(state.applied_file.read_bytes(), type=Kept)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(
            f"what was applied last ({state.applied_file}) cannot be read: {error}; delete the file, and "
            f"start with a document"
        ) from None


def _replies(state: StateDir, wanted: Wanted) -> Iterator[Reply]:
    running(state)
    decoder = msgspec.json.Decoder(Reply)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as to:
        to.settimeout(ANSWER_TIMEOUT_S)
        try:
            _connect(to, state)
            to.sendall(msgspec.json.encode(wanted) + b"\n")
            with to.makefile("rb") as lines:
                for line in lines:
                    yield decoder.decode(line)
        except (ConnectionRefusedError, FileNotFoundError):
            raise Retryable(
                "the deployment is starting or stopping and takes no document now; try again shortly",
                code="not_ready",
            ) from None
        except OSError as error:
            raise Retryable(f"the deployment cannot be asked ({state.apply_socket}): {error}") from None
        except msgspec.DecodeError as error:
            raise SextantError(
                f"the deployment's answer cannot be read ({error}): it is of another version; restart it"
            ) from None


def _connect(to: socket.socket, state: StateDir) -> None:
    """Waits a little for a deployment that serves already and opens this door last."""
    end_s = time.monotonic() + OPENS_WITHIN_S
    while True:
        try:
            return to.connect(str(state.apply_socket))
        except (ConnectionRefusedError, FileNotFoundError):
            if time.monotonic() > end_s or state.holder() is None:
                raise
            time.sleep(0.05)
