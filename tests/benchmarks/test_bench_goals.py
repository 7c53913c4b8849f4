"""The verdict: what counts as met, the exit code, the last line."""

from __future__ import annotations

import argparse
import json
import math

import pytest
from benchmarks.gateway import PARTS, Results, some_of
from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.stats import Growth, Latencies
from benchmarks.streams import StreamWindow
from benchmarks.verdict import goals_of
from benchmarks.windows import ClosedWindow, Cores, OpenWindow, StreamsWindow

CORES = Cores(1.0, 0.0, 0.5, 0.0)


def closed(req_per_s: float) -> ClosedWindow:
    return ClosedWindow(req_per_s, 1.0, 2.0, 3.0, int(req_per_s), 10.0, CORES)


def opened(p50_ms: float) -> OpenWindow:
    return OpenWindow(Latencies(p50_ms, 2 * p50_ms, 9.0, p50_ms, p50_ms, 100), 5000.0, CORES)


def streamed(chunks_per_s: float, *, behind: bool = False) -> StreamsWindow:
    window = StreamWindow(
        chunks_per_s, 50_000, 1.0, 2.0, 1.0, 1.0, 0.1, 1.0, 20.0, 2.0, 3.0, 100, falls_behind=behind
    )
    return StreamsWindow(1000, window, 0.01, 0.0, 1.0, 0, CORES)


def good_results(fsync_ms: float = 0.1) -> Results:
    """A run in which every goal is met."""
    rates = {"sextant": 30_000.0, "nginx": 100_000.0, "sglang": 20_000.0, "litellm": 90.0}
    return Results(
        machine={"fsync_ms": fsync_ms},
        closed={
            connections: {name: [closed(rate)] * 3 for name, rate in rates.items()}
            for connections in (64, 512)
        },
        rate={"direct": [opened(0.1)], "nginx": [opened(0.2)], "sextant": [opened(0.9)]},
        streams={1000: {"direct": [streamed(50_000)], "sextant": [streamed(49_900)]}},
        memory=Growth(50_000, 50_100, 100, 120, 300),
        fsync_ms=[fsync_ms] * 9,
    )


def verdicts(results: Results) -> dict[str, str]:
    return {goal.name: goal.verdict for goal in goals_of(results)}


def test_an_unknown_part_is_refused_instead_of_measuring_nothing() -> None:
    assert some_of(PARTS)("plain,streams") == ["plain", "streams"]
    with pytest.raises(argparse.ArgumentTypeError, match="'closed' is not one of plain, streams"):
        some_of(PARTS)("plain,closed")


def test_a_goal_is_met_on_its_bound_and_on_its_side() -> None:
    assert Goal("at least", 1.3, 1.3).met
    assert not Goal("at least", 1.2999, 1.3).met
    assert Goal("at most", 1.0, 1.0, at_least=False).met
    assert not Goal("at most", 1.0001, 1.0, at_least=False).met


@pytest.mark.parametrize("figure", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at_least", [True, False])
def test_what_was_not_measured_is_missed(figure: float | None, at_least: bool) -> None:
    goal = Goal("unmeasured", figure, 0.0, at_least=at_least)
    assert goal.verdict == "missed"
    assert exit_code([goal]) == 1


def test_the_exit_code_counts_only_goals_that_apply_and_never_passes_on_none() -> None:
    met, missed = Goal("a", 2, 1), Goal("b", 0, 1)
    assert exit_code([met]) == 0
    assert exit_code([met, missed]) == 1
    assert exit_code([met, Goal("c", 0, 1, applies=False)]) == 0
    assert exit_code([Goal("c", 5, 1, applies=False)]) == 1
    assert exit_code([]) == 1


def test_the_last_line_is_one_line_of_json_without_nan() -> None:
    line = last_line(
        "gateway", {"x": 1}, [Goal("a", math.nan, 1), Goal("b", 0.5, 1, applies=False, note="why")]
    )
    assert "\n" not in line
    said = json.loads(line)
    assert said["passed"] is False
    assert said["goals"]["a"] == {"figure": None, "goal": ">= 1", "verdict": "missed"}
    assert said["goals"]["b"]["verdict"] == "does not apply"
    assert said["goals"]["b"]["note"] == "why"


def test_a_good_run_passes() -> None:
    found = goals_of(good_results())
    assert {goal.verdict for goal in found} == {"met"}
    assert exit_code(found) == 0
    assert {goal.name for goal in found} == {
        "x_sglang_64", "x_nginx_64", "x_litellm_64", "x_sglang_512", "x_nginx_512", "x_litellm_512",
        "added_p50_ms_at_5000_per_s", "keeps_up_share_1000_streams", "memory_growth_kib",
    }  # fmt: skip


def test_nginx_at_64_connections_is_judged_only_where_an_fsync_is_fast() -> None:
    slow = good_results(fsync_ms=0.2)
    assert verdicts(slow)["x_nginx_64"] == "does not apply"
    assert verdicts(slow)["x_nginx_512"] == "met"
    assert verdicts(slow)["x_sglang_64"] == "met"


def test_each_goal_is_missed_by_its_own_figure() -> None:
    slow_ours = good_results()
    slow_ours.closed[64]["sextant"] = [closed(25_000)] * 3
    assert {name for name, verdict in verdicts(slow_ours).items() if verdict == "missed"} == {"x_sglang_64"}

    late = good_results()
    late.rate["sextant"] = [opened(1.2)]
    assert {name for name, verdict in verdicts(late).items() if verdict == "missed"} == {
        "added_p50_ms_at_5000_per_s"
    }

    leaky = good_results()
    leaky.memory = Growth(50_000, 51_000, 1000, 1250, 300)
    assert {name for name, verdict in verdicts(leaky).items() if verdict == "missed"} == {"memory_growth_kib"}


def test_one_window_of_streams_that_falls_behind_is_enough_to_miss() -> None:
    behind = good_results()
    behind.streams[1000]["sextant"] = [streamed(50_000), streamed(50_000, behind=True), streamed(50_000)]
    found = {goal.name: goal for goal in goals_of(behind)}["keeps_up_share_1000_streams"]
    assert found.figure == 0.0
    assert found.verdict == "missed"


def test_a_server_that_was_not_measured_misses_its_goals() -> None:
    without = good_results()
    for by_server in without.closed.values():
        del by_server["litellm"]
    without.memory = None
    assert {name for name, verdict in verdicts(without).items() if verdict == "missed"} == {
        "x_litellm_64", "x_litellm_512", "memory_growth_kib",
    }  # fmt: skip
