"""Three gateway processes, two hundred parallel calls each, one key at its limit: never over by one.

    make race

Every limit in turn, as a key's, a project's or a tenant's. Over: what was let through is more than the limit.
Under: another call would still have fitted when all were refused.
"""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from race.racing import (
    COST_NANO,
    GATEWAYS,
    HOLD_TOKENS_MOST,
    INPUT_TOKENS,
    NANO_PER_TOKEN,
    OUTPUT_TOKENS,
    Outcome,
    Terms,
    race,
)
from sextant.spec.policy import LimitRules

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

COUNTS = (1, GATEWAYS)
TOKENS = INPUT_TOKENS + OUTPUT_TOKENS
HOLD_NANO_MOST = HOLD_TOKENS_MOST * NANO_PER_TOKEN


def books(folder: Path) -> tuple[int, int, int]:
    """(rows, tokens, cost in nano) of the ledger."""
    db = apsw.Connection(str(folder / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found = db.execute(
            "SELECT count(*), coalesce(sum(input_tokens + output_tokens), 0), coalesce(sum(cost_nano), 0) "
            "FROM usage"
        )
        rows, tokens, cost_nano = next(iter(found))
        return rows, tokens, cost_nano
    finally:
        db.close()


def check_rows(outcome: Outcome, folder: Path, *refusals: int) -> None:
    """Each call that was let through has one row, and all others were refused for the limit's sake."""
    print(f"{dict(outcome.statuses)} in {outcome.elapsed_s:.1f} s, waves {outcome.waves}")
    assert set(outcome.statuses) == {200, *refusals}
    assert books(folder)[0] == outcome.let_through


@pytest.mark.parametrize("gateways", COUNTS)
async def test_a_burst_of_requests(tmp_path: Path, gateways: int, redis_url: str) -> None:
    terms = Terms("key", LimitRules(requests_per_s=0.01, burst_requests=101))
    outcome = await race(tmp_path, terms, redis_url if gateways > 1 else "", gateways=gateways)
    check_rows(outcome, tmp_path, 429)
    assert outcome.waves == [101, 0], "exactly the burst, at once"


@pytest.mark.parametrize("gateways", COUNTS)
async def test_tokens_a_minute(tmp_path: Path, gateways: int, redis_url: str) -> None:
    limit = 12_000
    terms = Terms("project", LimitRules(tokens_per_min=limit))
    outcome = await race(tmp_path, terms, redis_url if gateways > 1 else "", gateways=gateways)
    check_rows(outcome, tmp_path, 429)
    allowed = limit + limit * outcome.elapsed_s / 60
    assert books(tmp_path)[1] <= allowed
    assert books(tmp_path)[1] > limit - HOLD_TOKENS_MOST, "another call would have fitted"


@pytest.mark.parametrize("gateways", COUNTS)
async def test_requests_at_once(tmp_path: Path, gateways: int, redis_url: str) -> None:
    """The burst ends the race; the engine sees how many run at once."""
    terms = Terms("tenant", LimitRules(concurrent_requests=23, requests_per_s=0.01, burst_requests=200))
    outcome = await race(tmp_path, terms, redis_url if gateways > 1 else "", gateways=gateways, work_s=0.5)
    check_rows(outcome, tmp_path, 429)
    assert outcome.peak == 23, "as many as allowed, and not one more"
    assert outcome.let_through == 200


@pytest.mark.parametrize("gateways", COUNTS)
async def test_a_prepaid_balance(tmp_path: Path, gateways: int, redis_url: str) -> None:
    funds_nano = 150 * COST_NANO + COST_NANO // 2
    terms = Terms("tenant", billing="prepaid", funds_nano=funds_nano)
    outcome = await race(tmp_path, terms, redis_url if gateways > 1 else "", gateways=gateways)
    check_rows(outcome, tmp_path, 402, 429)  # 429 while only open requests are in the way
    assert books(tmp_path)[2] == outcome.let_through * COST_NANO
    left_nano = funds_nano - books(tmp_path)[2]
    assert 0 <= left_nano < HOLD_NANO_MOST, "below zero, or another call would have fitted"


@pytest.mark.parametrize("gateways", COUNTS)
async def test_a_monthly_spend(tmp_path: Path, gateways: int, redis_url: str) -> None:
    limit_nano = 99 * COST_NANO + 1
    terms = Terms("project", LimitRules(spend_nano_per_month=limit_nano), billing="postpaid")
    outcome = await race(tmp_path, terms, redis_url if gateways > 1 else "", gateways=gateways)
    check_rows(outcome, tmp_path, 429)
    assert 0 <= limit_nano - books(tmp_path)[2] < HOLD_NANO_MOST


@pytest.mark.parametrize("gateways", COUNTS)
async def test_tokens_a_day(tmp_path: Path, gateways: int, redis_url: str) -> None:
    limit = 130 * TOKENS + 1
    terms = Terms("key", LimitRules(tokens_per_day=limit))
    outcome = await race(tmp_path, terms, redis_url if gateways > 1 else "", gateways=gateways)
    check_rows(outcome, tmp_path, 429)
    assert 0 <= limit - books(tmp_path)[1] < HOLD_TOKENS_MOST
