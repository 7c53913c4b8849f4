"""What was used: by day, model, key or project, over a span, and the same as a file for a spreadsheet."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Sequence

import msgspec
from starlette.responses import Response

from sextant.base.errors import BadRequest
from sextant.console.charts import cost_chart, daily_chart
from sextant.console.control_api import Answer
from sextant.console.keys import read_projects
from sextant.console.shown import day_start_ms, today
from sextant.console.told import Keys, Usage, UsageLine
from sextant.console.visit import Here, Visit

SPANS = (7, 30, 90)
DAYS_MAX = 366
SIDES = ("model", "key", "project", "day")
LINES_SHOWN = 500
KEYS_MAX = 1000
FILE_LINES = 10_000
"""As many as control tells at once."""
FILE_PAGES_MAX = 10
_FILE_HEADERS = ("content-type", "content-disposition", "content-security-policy")


class Asked(msgspec.Struct, frozen=True):
    """What the page is to show: whole days, both in; an empty id is any."""

    first: datetime.date
    last: datetime.date
    by: str
    key_id: str = ""
    model: str = ""

    @property
    def days(self) -> list[datetime.date]:
        """Every day of the span."""
        return [self.first + datetime.timedelta(days=n) for n in range((self.last - self.first).days + 1)]

    def query(self, tenant_id: str, by: str) -> dict[str, str]:
        """As control is asked."""
        until = self.last + datetime.timedelta(days=1)
        found = {
            "tenant_id": tenant_id,
            "by": by,
            "since_ms": str(day_start_ms(self.first)),
            "until_ms": str(day_start_ms(until)),
        }
        return found | {
            name: value for name, value in (("key_id", self.key_id), ("model", self.model)) if value
        }

    def form(self) -> dict[str, str]:
        """As an address of ours says it."""
        found = {"from": self.first.isoformat(), "to": self.last.isoformat(), "by": self.by}
        return found | {name: value for name, value in (("key", self.key_id), ("model", self.model)) if value}


async def usage_page(visit: Visit) -> Response:
    """The page."""
    here = await visit.here()
    asked = _asked(visit, here)
    by_day, by_side, by_model, keys, projects = await asyncio.gather(
        visit.ask("GET /v1/usage", **asked.query(here.tenant.id, "day")),
        visit.ask("GET /v1/usage", **asked.query(here.tenant.id, asked.by), limit=str(LINES_SHOWN)),
        visit.ask("GET /v1/usage", **asked.query(here.tenant.id, "model") | {"model": ""}),
        visit.ask("GET /v1/keys", tenant_id=here.tenant.id, with_revoked="true", limit=str(KEYS_MAX)),
        read_projects(visit, here),
    )
    days, lines = by_day.read(Usage).totals, by_side.read(Usage)
    currencies = sorted({line.currency for line in days}) or [here.tenant.currency]
    return visit.page(
        "usage",
        here=here,
        asked=asked,
        spans=_spans(visit, here),
        sides=SIDES,
        lines=sorted(lines.totals, key=_rank(asked.by)),
        cut=lines.next_offset is not None,
        totals={currency: _total(days, currency) for currency in currencies},
        chart=daily_chart(asked.days, days, visit.words),
        costs=[cost_chart(asked.days, days, currency, visit.words) for currency in currencies],
        models=sorted({line.model for line in by_model.read(Usage).totals if line.model}),
        keys={one.id: one for one in keys.read(Keys).keys},
        projects={one.id: one for one in projects},
    )


async def usage_file(visit: Visit) -> Response:
    """The span as CSV, told apart by day, project, key and model. Raises BadRequest for one of so many lines
    that some would be missing."""
    here = await visit.here()
    asked = _asked(visit, here)
    query = asked.query(here.tenant.id, "day,project,key,model") | {"limit": str(FILE_LINES)}
    first = await visit.ask("GET /v1/usage.csv", **query)
    parts, newest = [first.body], first.body
    while newest.count(b"\n") > FILE_LINES:  # the names of the columns, and as many lines as were asked for
        if len(parts) == FILE_PAGES_MAX:
            said = visit.words("usage.too_long", count=FILE_LINES * FILE_PAGES_MAX)
            raise BadRequest(said, field="from", code="too_long")
        more = await visit.ask("GET /v1/usage.csv", **query, offset=str(FILE_LINES * len(parts)))
        newest = more.body
        parts.append(newest.partition(b"\n")[2])
    return relayed(msgspec.structs.replace(first, body=b"".join(parts)))


def relayed(answer: Answer) -> Response:
    """A file of control's as it is, with what it says about how a browser may show it."""
    headers = {name: answer.header(name.encode()) for name in _FILE_HEADERS}
    return Response(answer.body, headers={name: value for name, value in headers.items() if value})


def _asked(visit: Visit, here: Here) -> Asked:
    """Raises BadRequest for days that are none, in the wrong order, or too many."""
    query = visit.request.query_params
    last = _day(query.get("to", "")) or today(visit.now_ms, here.tenant.time_zone)
    first = _day(query.get("from", "")) or last - datetime.timedelta(days=29)
    if not 0 <= (last - first).days < DAYS_MAX:
        raise BadRequest(visit.words("usage.wrong_span", days=DAYS_MAX), field="from", code="wrong_span")
    by = query.get("by", "model")
    return Asked(
        first, last, by if by in SIDES else "model", query.get("key", "")[:100], query.get("model", "")[:200]
    )


def _day(text: str) -> datetime.date | None:
    if not text:
        return None
    try:
        found = datetime.date.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{text[:20]!r} is no day; a day is written 2026-11-22", field="from") from None
    if not 2000 <= found.year < 9000:
        raise BadRequest(f"{text[:20]!r} is out of reach", field="from")
    return found


def _spans(visit: Visit, here: Here) -> list[tuple[int, str, str]]:
    """Days, first and last of the spans that are a click away."""
    last = today(visit.now_ms, here.tenant.time_zone)
    return [
        (days, (last - datetime.timedelta(days=days - 1)).isoformat(), last.isoformat()) for days in SPANS
    ]


def _rank(by: str) -> Callable[[UsageLine], tuple[object, ...]]:
    if by == "day":
        return lambda line: tuple(-int(part) for part in line.day.split("-") if part)
    return lambda line: (-line.cost_nano, -line.requests, line.model, line.key_id, line.project_id)


def _total(lines: Sequence[UsageLine], currency: str) -> dict[str, int]:
    names = ("requests", "errors", "input_tokens", "cached_tokens", "output_tokens", "cost_nano")
    kept = [line for line in lines if line.currency == currency]
    return {name: sum(getattr(line, name) for line in kept) for name in names}
