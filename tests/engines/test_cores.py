"""Usable physical cores: affinity, SMT siblings, cgroup quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sextant.engines import cores


def topology(root: Path, layout: dict[int, tuple[int, int]]) -> Path:
    for cpu, (package, core) in layout.items():
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{package}\n")
        (folder / "core_id").write_text(f"{core}\n")
    return root


@pytest.mark.parametrize(
    ("affinity", "layout", "expected"),
    [
        ({0, 1}, {0: (0, 0), 1: (0, 1)}, 2),
        ({0, 1, 2, 3}, {0: (0, 0), 1: (0, 1), 2: (0, 0), 3: (0, 1)}, 2),  # two threads a core
        ({0, 1}, {0: (0, 0), 1: (1, 0)}, 2),  # the same core number in two packages
        ({2, 3}, {0: (0, 0), 1: (0, 1), 2: (0, 0), 3: (0, 1)}, 2),
        ({0, 1, 2}, {}, 3),  # topology hidden: each logical CPU counts
    ],
)
def test_siblings_count_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    affinity: set[int],
    layout: dict[int, tuple[int, int]],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: affinity)
    (tmp_path / "cgroup").mkdir()
    assert cores.usable_cores(topology(tmp_path / "cpu", layout), tmp_path / "cgroup") == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("150000 100000", 1), ("50000 100000", 1), ("max 100000", 4)]
)
def test_a_quota_cuts_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cores.usable_cores(tmp_path / "none", tmp_path) == expected


def test_a_parent_groups_quota_counts_too(tmp_path: Path) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("200000 100000\n")
    (group / "cpu.max").write_text("max 100000\n")
    membership = tmp_path / "membership"
    membership.write_text("0::/a/b\n")
    assert cores.cpu_quota(tmp_path, membership) == 2.0


def test_the_first_version_of_cgroups(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cores.cpu_quota(tmp_path, tmp_path / "none") == 3.0
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    assert cores.cpu_quota(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(("usable", "threads"), [(1, 1), (2, 1), (8, 7)])
def test_one_core_is_left_for_the_rest(monkeypatch: pytest.MonkeyPatch, usable: int, threads: int) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: usable)
    assert cores.default_threads() == threads
