"""The shard runner: budgets bite, and every test file has one home."""

from __future__ import annotations

from pathlib import Path

import pytest

import shard

BUDGET = """
[fast]
paths = ["tests/base"]
workers = 2
budget_s = 60
[shard.core]
paths = ["tests/base", "tests/spec"]
budget_s = 100
[shard.timing]
paths = ["tests"]
marker = "timing"
budget_s = 10
"""
SHARDS = shard.read_shards(BUDGET)
REPORT = """<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1"/></testsuites>"""


def test_a_shard_fails_from_half_as_long_again() -> None:
    assert shard.verdict(SHARDS["core"], 150.0) == ""
    assert "its budget in tests/budget.toml is 100 s" in shard.verdict(SHARDS["core"], 150.1)


def test_timing_tests_run_in_their_own_shard_only() -> None:
    assert SHARDS["timing"].marker == "timing"
    assert SHARDS["core"].marker == "not timing"
    assert SHARDS["fast"].marker == "not slow and not timing"
    assert [one.workers for one in SHARDS.values()] == [1, 1, 2]


def test_files_without_a_home_or_with_two_are_found() -> None:
    files = ["tests/base/test_a.py", "tests/new/test_b.py", "tests/test_c.py"]
    assert shard.homeless(SHARDS, files) == files[1:]
    twice = shard.read_shards(BUDGET.replace('"tests/spec"', '"tests/base"'))
    assert shard.homeless(twice, files) == files


def test_only_the_fast_ones_write_to_memory_and_only_where_there_is_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(shard, "MEMORY", tmp_path)
    monkeypatch.setattr(shard, "MEMORY_LEAST_GIB", 0.0)
    with shard.surroundings(SHARDS["fast"]) as found:
        folder = Path(found["TMPDIR"])
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o755
        assert "PYTHONDONTWRITEBYTECODE" not in found
    assert not folder.exists()
    monkeypatch.delenv("TMPDIR", raising=False)
    with shard.surroundings(SHARDS["core"]) as found:
        assert "TMPDIR" not in found
    monkeypatch.setattr(shard, "MEMORY_LEAST_GIB", 2.0**30)
    with shard.surroundings(SHARDS["fast"]) as found:
        assert "TMPDIR" not in found
    assert shard.free_gib(tmp_path / "absent") == 0.0


def test_counts_come_from_the_report(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert shard.counts(report) == shard.Result(passed=2, failed=2, skipped=1)


def test_our_own_budgets_hold_every_test_and_the_hour() -> None:
    shards = shard.read_shards((shard.TESTS / "budget.toml").read_text())
    files = [str(file.relative_to(shard.ROOT)) for file in shard.TESTS.rglob("test_*.py")]
    assert shard.homeless(shards, files) == []
    assert set(shards["fast"].leaves_out) <= set(files)
    assert sum(one.budget_s for name, one in shards.items() if name != "fast") <= 3600
    assert shards["core"].budget_s <= 600
    assert shards["fast"].budget_s <= 60
