"""What a site sends to its centre and hears back: rows of its ledger as they are, in their order.

Amounts are the site's own, in integer billionths: the centre keeps them and rates nothing again. Neighbours:
`ledger_wire.py` (how the centre's control hands a batch to its ledger), `usage.py` (a row before it is
rated).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

ROWS_MAX = 500
"""Rows in one batch."""
COUNT_MAX = 2**40
AMOUNT_NANO_MAX = 2**62

_END = r"$(?!\n)"
"""`$` alone lets a line break follow."""
_SHOWN = r"^[^\x00-\x1f\x7f-\x9f]*" + _END
"""Without what a database cannot hold and a terminal would act on."""
Text = Annotated[str, msgspec.Meta(max_length=200, pattern=_SHOWN)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=f"^[!-~]+{_END}")]
Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
Nano = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_NANO_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Ms = Annotated[int, msgspec.Meta(ge=-(2**45), le=2**45)]


class SiteRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One rated row of a site's ledger. `number` is its place in the site's order; `policy_version` is that
    of the prices that rated it, 0 where the site does not know it; times are those of the site's clock."""

    number: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    request_id: Id
    tenant_id: Id
    project_id: Text
    key_id: Text
    model: Text
    endpoint: Text
    outcome: Annotated[str, msgspec.Meta(max_length=20, pattern=_SHOWN)]
    started_ms: Ms
    duration_ms: Count
    ttft_ms: Annotated[int, msgspec.Meta(ge=-1, le=COUNT_MAX)]
    input_tokens: Count
    output_tokens: Count
    cached_tokens: Count
    reasoning_tokens: Count
    estimated: bool
    cost_nano: Nano
    list_nano: Nano
    currency: Annotated[str, msgspec.Meta(pattern=f"^[A-Z]{{3}}{_END}")]
    policy_version: Number = 0


class SiteBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows that follow, in the site's order, on the row `after_id`, which the centre must have; an empty
    `after_id` begins at the first row. Without rows it asks where the centre stands."""

    after_id: Annotated[str, msgspec.Meta(max_length=100, pattern=_SHOWN)] = ""
    rows: Annotated[list[SiteRow], msgspec.Meta(max_length=ROWS_MAX)] = []


class SiteAnswer(msgspec.Struct, frozen=True):
    """Where the centre stands after a batch: it has every row of the site up to `through`, whose id is
    `through_id`; 0 and empty for none. The counts are of this batch: `booked` were new and have a tenant,
    `held` were new and wait for one, `known` were there, `differing` were there with another content, which
    stays. A batch that does not follow on a row that the centre has changes nothing."""

    through: int = 0
    through_id: str = ""
    booked: int = 0
    held: int = 0
    known: int = 0
    differing: int = 0


class ForwardStatus(msgspec.Struct, frozen=True):
    """How forwarding to the centre stands: the last row that the centre has of those up to there, when it
    last answered (Unix milliseconds, 0 for never), what waits, and why it does not go; counts are since the
    cursor began."""

    number: int = 0
    request_id: str = ""
    success_ms: int = 0
    waiting_rows: int = 0
    waiting_since_ms: int = 0
    """When the first of them began; 0 for none."""
    trouble: str = ""
    sent_rows: int = 0
    held_rows: int = 0
    """Of those sent, what the centre holds since it knows no tenant for it, or did when it came."""
    differing_rows: int = 0


def read_forward_status(path: Path) -> ForwardStatus | None:
    """The status, or None where there is none or it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ForwardStatus)
    except (OSError, msgspec.DecodeError):
        return None
