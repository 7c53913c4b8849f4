"""What a month will have cost at its end, guessed from the days before: pure arithmetic on daily sums.

Neighbours: `invoices.py` shows it on previews, `budgets.py` in alerts. It is called an estimate wherever it
is shown.
"""

from __future__ import annotations

import calendar
import datetime
from collections.abc import Mapping
from typing import Literal

import msgspec

from sextant.spec.policy import PPM

LOOK_BACK_DAYS = 28
WEEKDAYS_FROM_DAYS = 14
"""So many whole days of use must be known before weekdays are told apart."""

Basis = Literal["none", "linear", "weekday"]


class Estimate(msgspec.Struct, frozen=True):
    """`month_nano` is spent and expected together. Basis `linear`: every coming day as the mean of the
    days seen; `weekday`: each as the mean of its weekday; `none`: no whole day was seen, nothing is expected.
    """

    month_nano: int
    basis: Basis
    days_seen: int


def month_estimate(costs: Mapping[datetime.date, int], today: datetime.date, elapsed_ppm: int) -> Estimate:
    """The month of `today`, of which `elapsed_ppm` is over. `costs` are daily sums in nano, those of the last
    `LOOK_BACK_DAYS` before today among them; a day that is missing cost nothing."""
    spent_nano = sum(
        cost for day, cost in costs.items() if (day.year, day.month) == (today.year, today.month)
    )
    earliest = today - datetime.timedelta(days=LOOK_BACK_DAYS)
    used = [day for day in costs if earliest <= day < today]
    if not used:
        return Estimate(spent_nano, "none", 0)
    seen = [min(used) + datetime.timedelta(days=number) for number in range((today - min(used)).days)]
    basis: Basis = "weekday" if len(seen) >= WEEKDAYS_FROM_DAYS else "linear"

    def expected_nano(day: datetime.date) -> int:
        alike = [one for one in seen if one.weekday() == day.weekday()] if basis == "weekday" else seen
        return sum(costs.get(one, 0) for one in alike) // len(alike)

    last = calendar.monthrange(today.year, today.month)[1]
    coming = [today.replace(day=number) for number in range(today.day + 1, last + 1)]
    rest_of_today = expected_nano(today) * (PPM - elapsed_ppm) // PPM
    return Estimate(spent_nano + rest_of_today + sum(map(expected_nano, coming)), basis, len(seen))
