"""Ten rounds of what `make crash` does a hundred times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crash.rounds import Report, run_rounds
from crash.victims import Shared
from servers import Postgres, Redis

SEED = 20261122
MakeRedis = Callable[..., Redis]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_rounds_of_kills_leave_the_books_right(tmp_path: Path) -> None:
    check(run_rounds(tmp_path, 10, SEED))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_same_with_postgresql_and_redis(
    tmp_path: Path, postgres: Postgres, private_redis: MakeRedis
) -> None:
    check(run_rounds(tmp_path, 10, SEED, Shared(postgres, private_redis(durable=True))))


def check(report: Report) -> None:
    print(report)
    assert sum(report.kills.values()) == 10
    assert all(report.kills.values()), "every kind of process was killed"
    assert len(report.seen.completed) > 100, "the load was real"
    assert report.seen.statuses.get(402, 0) > 0, "the balance ran out"
    assert report.seen.broken > 0, "the kills hit answers under way"
