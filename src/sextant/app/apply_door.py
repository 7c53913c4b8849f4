"""Where a running deployment takes another document: a Unix socket of the supervisor's.

Neighbours: `applying.py` has the words and the side that asks, `swap.py` carries out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from sextant.app.applying import Done, Kept, Refused, Reply, Wanted
from sextant.app.events import Doing, Event, Tell, Warned
from sextant.app.state import StateDir, write_private
from sextant.base.errors import Permanent, SextantError
from sextant.control.settings import Applied
from sextant.spec.document import Deployment

QUESTION_BYTES_MAX = 16 * 1024 * 1024
"""A document has at most a mebibyte; this is it with every character escaped."""
QUESTION_TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)
Change = Callable[[Deployment, Tell], Awaitable[tuple[str, ...]]]


class ApplyDoor:
    """Listens as long as it is open; `change` does it, `done` hears of each success."""

    def __init__(self, state: StateDir, change: Change, done: Callable[[Applied], None]) -> None:
        self._state = state
        self._change = change
        self._done = done
        self._server: asyncio.Server | None = None
        self._works: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(
            self._answer, path=self._state.apply_socket, limit=QUESTION_BYTES_MAX
        )
        self._state.apply_socket.chmod(0o600)  # its folder is private already

    async def close(self) -> None:
        """Takes no more, and gives up what is under way: the old engines serve until they are stopped."""
        if self._server is not None:
            self._server.close()
        for work in self._works:
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(reply: Reply) -> None:
            with contextlib.suppress(OSError, RuntimeError):  # who asked may be gone; the work goes on
                writer.write(msgspec.json.encode(reply) + b"\n")

        try:
            async with asyncio.timeout(QUESTION_TIMEOUT_S):
                wanted = msgspec.json.decode(await reader.readline(), type=Wanted)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError, a DecodeError a ValueError
            say(Refused(f"what was asked cannot be read: {error}", "bad_request", again=False))
        else:
            work = asyncio.create_task(self._carry_out(wanted, say))
            self._works.add(work)
            work.add_done_callback(self._works.discard)
            await asyncio.gather(work, return_exceptions=True)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def _carry_out(self, wanted: Wanted, say: Callable[[Reply], None]) -> None:
        def tell(event: Event) -> None:
            if isinstance(event, Doing | Warned):
                say(event)

        try:
            document = wanted.document()
            for warning in await self._change(document, tell):
                say(Warned(warning))
            applied = Applied(
                document.metadata.name,
                time.time_ns() // 1_000_000,
                wanted.revision,
                wanted.origin,
                wanted.path,
            )
            self._done(applied)
            self._keep(Kept(wanted, applied), say)
            _log.info("%s of %s is applied", wanted.revision or wanted.name, wanted.origin or "a file")
            say(Done(applied))
        except SextantError as error:
            _log.warning("%s is not applied: %s", wanted.revision or wanted.name, error.message)
            say(Refused(error.message, error.code, again=not isinstance(error, Permanent)))
        except asyncio.CancelledError:
            say(Refused("the deployment is being stopped; nothing was changed", "stopping", again=True))
            raise
        except Exception:  # noqa: BLE001 - the edge of one change: the deployment serves on
            _log.exception("a change failed on a defect")
            log = self._state.logs / "supervisor.log"
            say(Refused(f"this should not have happened; {log} says more", "internal_error", again=True))

    def _keep(self, kept: Kept, say: Callable[[Reply], None]) -> None:
        try:
            write_private(self._state.applied_file, msgspec.json.encode(kept))
        except OSError as error:
            say(Warned(f"it serves, but {self._state.applied_file} cannot be written: {error.strerror}"))
