"""Ten rounds of what `make crash` does a hundred times."""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.rounds import run_rounds

SEED = 20261122


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_rounds_of_kills_leave_the_books_right(tmp_path: Path) -> None:
    report = run_rounds(tmp_path, 10, SEED)
    print(report)
    assert sum(report.kills.values()) == 10
    assert all(report.kills.values()), "every kind of process was killed"
    assert len(report.seen.completed) > 100, "the load was real"
    assert report.seen.statuses.get(402, 0) > 0, "the balance ran out"
    assert report.seen.broken > 0, "the kills hit answers under way"
