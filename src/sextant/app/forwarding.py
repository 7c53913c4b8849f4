"""Store and forward: what this box has used goes to its centre whenever there is a line, each row once.

The ledger's rows are the outbox and are never changed. A batch is sent, the centre keeps it in one
transaction and says up to where it has everything; only then does the cursor move. So nothing is lost and
nothing counts twice, whatever ends when: at worst a batch is sent again, and the centre knows its rows.
Where the two disagree (one was restored from a backup) the cursor goes back to a row that both have, or to
the beginning. See docs/decisions/0010-a-sites-ledger-is-its-outbox.md.
Neighbours: `outbox.py` (the rows), `courier.py` (the line), `forwarder_process.py` (the loop).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from sextant.app.courier import Refused, Unreachable
from sextant.app.outbox import START, Outbox, Place
from sextant.base.errors import SextantError
from sextant.spec.sites import ROWS_MAX, ForwardStatus, SiteAnswer, SiteBatch, SiteRow

LOOK_S = 2.0
"""Between two looks for new rows."""
HELLO_MS = 60_000
"""Without rows the centre is asked so often where it stands: whether the line is there is seen, and a centre
that was restored."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
DOUBLINGS = 9
"""By then the longest pause is reached."""

_log = logging.getLogger(__name__)


class Line(Protocol):
    """The way to the centre."""

    def send(self, batch: SiteBatch) -> SiteAnswer:
        """Raises Unreachable (later, perhaps) or Refused."""


class Chance(Protocol):
    """Where jitter comes from."""

    def random(self) -> float: ...


class Forwarder:
    """One step at a time: `step` does what is due and says how long to pause."""

    def __init__(
        self, outbox: Outbox, line: Line, *, status: ForwardStatus, now_ms: Callable[[], int], chance: Chance
    ) -> None:
        """`status` is what was known when the process before this one ended."""
        self._outbox = outbox
        self._line = line
        self._now_ms = now_ms
        self._chance = chance
        self._failures = 0
        self._most = ROWS_MAX
        self._asked_ms = 0
        self.place = Place(status.number, status.request_id)
        self.status = status

    def step(self) -> float:
        """Sends the next batch if there is one. Returns seconds until the next step is due."""
        try:
            pause_s = self._send()
        except SextantError as error:  # the ledger cannot be read now
            pause_s = self._failed(error.message)
        self._look()
        return pause_s

    def _send(self) -> float:
        if not self._outbox.has(self.place):
            _log.warning("the ledger has another row in place %d: sending all again", self.place.number)
            self.place = START
        first = not self._asked_ms  # asks where the centre stands: the cursor may be old, or lost
        rows = [] if first else self._outbox.after(self.place, self._most)
        if not first and not rows and self._now_ms() - self._asked_ms < HELLO_MS:
            return LOOK_S
        try:
            answer = self._line.send(SiteBatch(self.place.request_id, rows))
        except Refused as refused:
            return self._refused(refused, rows)
        except Unreachable as error:
            return self._failed(str(error))
        self._asked_ms = self._now_ms()
        self._failures, self._most = 0, ROWS_MAX
        self._take(answer, rows)
        return 0.0 if rows or first else LOOK_S

    def _take(self, answer: SiteAnswer, rows: list[SiteRow]) -> None:
        """Moves to where the centre says it stands, if that is a row of ours."""
        stands = Place(answer.through, answer.through_id)
        if stands != (Place(rows[-1].number, rows[-1].request_id) if rows else self.place):
            agreed = stands if self._outbox.has(stands) else START
            _log.warning("the centre stands at row %d: going on after row %d", stands.number, agreed.number)
            stands = agreed
        self.place = stands
        if answer.differing:
            _log.error(
                "the centre has %d rows of ours with another content; it keeps its own", answer.differing
            )
        status = self.status
        self.status = msgspec.structs.replace(
            status,
            number=stands.number,
            request_id=stands.request_id,
            success_ms=self._now_ms(),
            trouble="",
            sent_rows=status.sent_rows + answer.booked + answer.held,
            held_rows=status.held_rows + answer.held,
            differing_rows=status.differing_rows + answer.differing,
        )

    def _refused(self, refused: Refused, rows: list[SiteRow]) -> float:
        """A batch that the centre does not want: smaller ones are tried, down to the one row at fault, which
        is never left out: it waits, and the trouble is shown."""
        if refused.by_content and len(rows) > 1:
            self._most = max(1, len(rows) // 2)
            return 0.0
        return self._failed(str(refused))

    def _failed(self, trouble: str) -> float:
        """Twice as long a pause as the last time, to a bound, and never the same as another box's."""
        if trouble != self.status.trouble:
            _log.warning("not forwarded: %s", trouble)
        self.status = msgspec.structs.replace(self.status, trouble=trouble)
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, DOUBLINGS))
        self._failures += 1
        return longest_s * (0.5 + 0.5 * self._chance.random())

    def _look(self) -> None:
        """Counts what waits."""
        try:
            waiting = self._outbox.waiting(self.place)
        except SextantError:
            return  # said already
        self.status = msgspec.structs.replace(
            self.status, waiting_rows=waiting.rows, waiting_since_ms=waiting.since_ms
        )
