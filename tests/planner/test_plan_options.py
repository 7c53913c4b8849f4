"""Plans: sizing, ranking, refusals, host checks, nonsense; more load never needs fewer accelerators."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from fake_speed import estimate, fake_cost, fake_predict
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.base.errors import BadRequest
from sextant.planner.host import host_needed
from sextant.planner.memory import BREAKS, GIB
from sextant.planner.options import Tools, answer_ms, price, watts_per_request
from sextant.planner.plan import plan, precision_choices
from sextant.planner.roofline import predictor
from sextant.spec.calibration import load_calibration
from sextant.spec.facts import load_catalog
from sextant.spec.hardware import Accelerator, Host
from sextant.spec.planning import (
    Layout,
    MemoryUse,
    Plan,
    Question,
    Speed,
    StatedCosts,
    Targets,
    Wishes,
    Workload,
)

CATALOG = load_catalog()
TOOLS = Tools(predict=fake_predict, cost=fake_cost)
ALL = tuple(CATALOG.accelerators)


def asked(model: str, *accelerators: str, precision: Any = "fp8", **more: Any) -> Question:
    devices = tuple(CATALOG.accelerator(name) for name in accelerators)
    return Question(architecture=CATALOG.model(model), precision=precision, accelerators=devices, **more)


def planned(model: str, *accelerators: str, **more: Any) -> Plan:
    return plan(asked(model, *accelerators, **more), TOOLS, CATALOG.precisions)


def test_the_ranking_is_the_lowest_of_each() -> None:
    made = planned("R1", *ALL, workload=Workload(requests_per_s=50))
    assert None not in (made.cheapest, made.fastest, made.most_efficient)
    options = made.options
    prices = [found for option in options if (found := price(option)) is not None]
    assert price(options[made.cheapest or 0]) == min(prices)
    assert answer_ms(options[made.fastest or 0]) == min(map(answer_ms, options))
    assert watts_per_request(options[made.most_efficient or 0]) == min(map(watts_per_request, options))
    assert made.sources == ("fake",)
    assert all(option.memory.fits for option in options)


def test_r1_needs_two_nodes_of_h100_and_one_of_h200() -> None:
    made = planned("R1", "H100", "H200")
    least: dict[str, int] = {}
    for option in made.options:
        least[option.accelerator.id] = min(option.count, least.get(option.accelerator.id, 10**9))
    assert least == {"h100-sxm": 16, "h200": 8}


def test_missing_prices_give_a_plan_without_cost() -> None:
    made = planned("R1", "H20")
    assert made.options
    assert made.cheapest is None
    assert made.options[0].no_cost == "h20 has no price per hour"
    unrated = plan(asked("R1", "H20"), Tools(predict=fake_predict))
    assert unrated.options[0].no_cost == "no prices were given"


def test_what_fits_nowhere_is_refused_with_the_nearest_first() -> None:
    made = planned("R1", "Jetson-Thor", "Orin", "RTX-4090", precision="bf16")
    assert not made.options
    plain = [refusal for refusal in made.refusals if refusal.first_break.key in BREAKS]
    near = [refusal.nearness for refusal in plain]
    assert len(near) == 3
    assert near == sorted(near, reverse=True)
    thor = planned("R1", "Jetson-Thor").refusals[0]
    assert "in no precision" in thor.give_up
    q2 = planned("V4-Flash", "Jetson-Thor", engine="llamacpp", precision="q4").refusals
    assert any("q2" in refusal.give_up for refusal in q2)


@pytest.mark.parametrize(
    ("more", "give_up"),
    [
        ({"wishes": Wishes(count=8)}, ["count", "fp8 weights (int4 instead)"]),
        ({"wishes": Wishes(tp=3)}, ["tp"]),
        ({"wishes": Wishes(most=8, pp=2)}, []),
        ({"wishes": Wishes(count=20)}, ["count"]),
    ],
)
def test_the_plan_says_what_to_give_up(more: dict[str, Any], give_up: list[str]) -> None:
    made = planned("R1", "H100", **more)
    assert made.options == ()
    offered = [
        refusal.give_up.partition(": then")[0] for refusal in made.refusals if "then" in refusal.give_up
    ]
    assert offered[: len(give_up)] == give_up


@pytest.mark.parametrize(
    ("targets", "key"),
    [
        (Targets(tpot_ms_p99=0.01), "tpot_ms_p99"),
        (Targets(ttft_ms_p99=0.01), "ttft_ms_p99"),
        (Targets(end_to_end_ms=0.01), "end_to_end_ms"),
    ],
)
def test_a_target_that_nothing_meets_is_named(targets: Targets, key: str) -> None:
    made = planned("R1", "H200", targets=targets)
    assert made.options == ()
    assert made.refusals[0].give_up.startswith(f"{key}: then ")
    assert any(refusal.first_break.key in (key, "weights") for refusal in made.refusals[1:])


def test_too_little_hardware_for_the_load() -> None:
    heavy = Workload(requests_per_s=100_000)
    made = planned("R1", "H200", workload=heavy, wishes=Wishes(most=8))
    assert made.options == ()
    loads = [refusal for refusal in made.refusals if refusal.first_break.key == "load"]
    assert loads
    assert loads[0].first_break.numbers["needed"] > 8
    assert "% of the load" in loads[0].give_up
    assert planned("R1", "H200", workload=heavy, wishes=Wishes(dp=1)).options == ()


def test_no_number_of_accelerators_is_unbounded() -> None:
    made = planned("R1", "H200", workload=Workload(requests_per_s=1e6, swing=1000))
    assert made.options == ()
    assert all(refusal.first_break.numbers.get("allowed", 100_000) == 100_000 for refusal in made.refusals)


def test_a_budget_is_kept() -> None:
    dear = planned("R1", "H200", costs=StatedCosts(most_usd_per_month=100))
    assert dear.options == ()
    assert dear.refusals[0].give_up.startswith("most_usd_per_month: then 8 × h200")
    assert planned("R1", "H200", costs=StatedCosts(most_usd_per_month=1e6)).options


def test_asked_concurrency_is_room_that_must_be_there() -> None:
    few = planned("R1", "H200", wishes=Wishes(concurrency=64))
    many = planned("R1", "H200", wishes=Wishes(concurrency=100_000))
    assert min(o.count for o in many.options) > min(o.count for o in few.options)
    crowded = planned("R1", "H200", wishes=Wishes(concurrency=100_000, count=8))
    assert crowded.options == ()
    assert {r.first_break.key for r in crowded.refusals} >= {"concurrency"}


def test_wished_numbers_are_what_comes_out() -> None:
    made = planned("R1", "H200", wishes=Wishes(count=32, tp=8))
    assert {(option.count, option.layout.tp, option.layout.dp) for option in made.options} == {(32, 8, 4)}


def test_prefill_apart_is_offered_where_there_is_much_and_where_it_is_wished() -> None:
    wished = planned("R1", "H200", wishes=Wishes(split=True, count=32))
    assert wished.options
    assert all(option.layout.prefill is not None for option in wished.options)
    assert {option.count for option in wished.options} == {32}
    assert planned("R1", "H200", wishes=Wishes(split=True, most=8)).options == ()
    without = planned("R1", "H200", wishes=Wishes(split=False), workload=Workload(requests_per_s=5000))
    assert all(option.layout.prefill is None for option in without.options)


def test_hosts_are_checked_only_where_the_user_said_something() -> None:
    assert planned("R1", "H200").options[0].warnings == ()
    small = Host(
        cpu_sockets=1,
        memory_bytes=64 * GIB,
        storage_bytes=100 * GIB,
        storage_bytes_per_s=1e8,
        network_bytes_per_s=1e9,
    )
    one, *_ = planned("R1", "H200", host=small).options
    said = "\n".join(one.warnings)
    assert "1 CPU sockets for 8 accelerators; the rule 1:4 asks for 2" in said
    assert "host memory: 64 GiB in each server, 769 GiB are needed" in said
    assert "storage: 100 GiB in each server, 1283 GiB are needed" in said
    assert "reading the weights takes 115 minutes" in said
    assert "network" not in said, "one server, nothing crosses"
    across = planned("R1", "H100", host=small).options[0]
    assert any(warning.startswith("network: 8 Gbit/s") for warning in across.warnings)
    enough = Host(
        cpu_sockets=2,
        memory_bytes=2000 * GIB,
        storage_bytes=2000 * GIB,
        storage_bytes_per_s=5e9,
        network_bytes_per_s=4e11,
    )
    assert planned("R1", "H100", host=enough).options[0].warnings == ()
    pi = planned("nano", "Pi-5", precision="q8", engine="embedded", host=small).options[0]
    assert pi.warnings == ()


def test_a_socket_more_for_a_fifth_accelerator_and_a_network_for_each() -> None:
    h200 = CATALOG.accelerator("H200")
    question = asked("R1", "H200")
    assert host_needed(question, Layout(tp=1, dp=5), h200).cpu_sockets == 2
    assert host_needed(question, Layout(tp=1, dp=4), h200).cpu_sockets == 1
    needed = host_needed(question, Layout(tp=8, pp=2), h200)
    assert needed.network_bytes_per_s == pytest.approx(8 * h200.network_bytes_per_s)
    weights = CATALOG.model("R1").checkpoints["fp8"]
    assert needed.memory_bytes == pytest.approx(weights / 2 + 8 * 16 * GIB, abs=1)
    assert needed.storage_bytes == 2 * weights


def test_formats_without_units_are_warned_of() -> None:
    assert any("no FP8 units" in w for w in planned("R1", "A100").options[0].warnings)
    flash = planned("V4-Flash", "H100", precision="fp4").options[0].warnings
    assert any("no FP4 units" in w for w in flash)
    assert any("FP8 cache only" in w for w in flash)
    assert planned("V4-Flash", "B200", precision="fp4", kv_precision="fp8").options[0].warnings == ()


def test_precisions_come_with_what_they_cost() -> None:
    choices = precision_choices(CATALOG.model("R1"), CATALOG.precisions)
    sizes = [choice.weights_bytes for choice in choices]
    assert sizes == sorted(sizes, reverse=True)
    by_name = {choice.precision: choice for choice in choices}
    assert by_name["fp8"].accuracy == "as its makers publish it"
    assert by_name["int4"].measured
    assert by_name["int4"].weights_bytes == 400_000_000_000
    assert all(choice.source in CATALOG.sources for choice in choices if choice.precision != "fp8")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"workload": Workload(requests_per_s=0)}, "requests_per_s is 0; expected more than 0"),
        ({"workload": Workload(requests_per_s=float("nan"))}, "requests_per_s is nan"),
        ({"workload": Workload(requests_per_s=1e9)}, "at most 1e+06"),
        ({"workload": Workload(input_tokens=0)}, "input_tokens is 0; expected 1 or more"),
        ({"workload": Workload(output_tokens=-5)}, "output_tokens is -5"),
        (
            {"workload": Workload(prefix_hit_share=1.5)},
            "prefix_hit_share is 1.5; expected 0 or more and at most 1",
        ),
        ({"workload": Workload(swing=0.5)}, "swing is 0.5; expected 1 or more"),
        ({"targets": Targets(ttft_ms_p99=0)}, "ttft_ms_p99 is 0; expected more than 0"),
        ({"targets": Targets(tpot_ms_p99=float("inf"))}, "tpot_ms_p99 is inf"),
        ({"wishes": Wishes(count=-8)}, "count is -8"),
        ({"wishes": Wishes(concurrency=0)}, "concurrency is 0"),
        ({"costs": StatedCosts(pue=-1)}, "pue is -1; expected 1 or more"),
        ({"costs": StatedCosts(pue=0.5)}, "pue is 0.5; expected 1 or more and at most 10"),
        ({"costs": StatedCosts(price_usd=float("inf"))}, "price_usd is inf; expected 0 or more and at most"),
        ({"engine": "llamacpp"}, "llamacpp keeps weights in bf16, fp4, q8, q4 or q2"),
    ],
)
def test_nonsense_numbers_are_refused_by_name(more: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        planned("R1", "H200", **more)
    assert said in refused.value.message


def test_a_plan_without_targets_says_what_it_counts_for() -> None:
    assert "full use" in planned("R1", "H200").warnings[0]
    assert planned("R1", "H200", targets=Targets(tpot_ms_p99=1000)).warnings == ()
    assert "tp 3 does not divide" in planned("R1", "H200", wishes=Wishes(tp=3)).warnings[0]


def test_no_accelerator_at_all_is_refused() -> None:
    with pytest.raises(BadRequest, match="no accelerator is to be considered"):
        planned("R1")


def test_an_engine_that_does_not_run_there_is_refused_by_name() -> None:
    made = planned("R1", "MI300X", "H200", engine="trtllm")
    assert {option.accelerator.id for option in made.options} == {"h200"}
    assert [(one.accelerator.id, one.first_break.key) for one in made.refusals] == [("mi300x", "engine")]
    assert (
        "mindie runs on Huawei, not on h200"
        in planned("R1", "H200", engine="mindie").refusals[0].first_break.text
    )
    assert planned("R1", "910C", engine="mindie").options
    small = planned("sextant-nano", "H200", "Pi-5", engine="embedded", precision="q8")
    assert {option.accelerator.id for option in small.options} == {"raspberry-pi-5"}
    assert [one.give_up for one in small.refusals] == ["another engine, such as llamacpp"]


def test_what_is_offered_instead_is_a_precision_of_that_engine() -> None:
    question = asked("Llama-3.1-8B", "Raspberry-Pi-5", precision="bf16", engine="llamacpp")
    offered = [one.give_up for one in plan(question, TOOLS).refusals]
    assert any("q8" in one or "q4" in one for one in offered)
    assert not any("fp8" in one or "int" in one for one in offered)


def test_a_context_beyond_the_model_offers_the_longest_that_it_has() -> None:
    made = planned("R1", "H200", workload=Workload(input_tokens=1_000_000))
    assert made.options == () and made.refusals
    assert made.refusals[0].give_up.startswith("a context over 163840 tokens: then ")
    busy = Workload(requests_per_s=900, input_tokens=1_000_000)
    few = planned("R1", "H200", workload=busy, wishes=Wishes(most=8))
    assert [one.give_up for one in few.refusals] == ["a context of at most 163840 tokens"]


def test_a_split_that_does_not_carry_the_load_is_not_offered() -> None:
    """A whole of many replicas need not carry as many times what one part of it does."""

    def saturating(question: Question, layout: Layout, accelerator: Accelerator, memory: MemoryUse) -> Speed:
        speed = fake_predict(question, layout, accelerator, memory)
        if layout.decode is not None and layout.count > 4 * layout.decode.replica:
            return msgspec.structs.replace(speed, requests_per_s_max=estimate(1.0, "requests/s"))
        return speed

    question = asked("R1", "H200", workload=Workload(requests_per_s=400_000), wishes=Wishes(split=True))
    assert plan(question, TOOLS).options
    made = plan(question, Tools(predict=saturating))
    assert made.options == () and "without split" in made.refusals[0].first_break.text


def test_the_same_question_gives_the_same_plan() -> None:
    first, second = (planned("R1", "H200", "B200", workload=Workload(requests_per_s=9)) for _ in range(2))
    assert msgspec.json.encode(first) == msgspec.json.encode(second)
    assert msgspec.json.decode(msgspec.json.encode(first), type=Plan) == first


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(["R1", "V4-Flash", "Llama-3.1-8B", "Qwen3-235B-A22B", "V2-Lite"]),
    accelerator=st.sampled_from(["H100", "H200", "L40S", "MI300X", "910B", "GB200"]),
    loads=st.lists(st.floats(0.01, 3000), min_size=2, max_size=2),
    swing=st.floats(1, 10),
)
def test_more_load_never_needs_fewer_accelerators(
    model: str, accelerator: str, loads: list[float], swing: float
) -> None:
    least = []
    for load in sorted(loads):
        made = planned(model, accelerator, workload=Workload(requests_per_s=load, swing=swing))
        least.append(min((option.count for option in made.options), default=10**9))
    assert least[0] <= least[1]


REAL = Tools(predict=predictor(load_calibration()))


@pytest.mark.parametrize("accelerator", ["H100", "H200", "MI300X", "910B"])
def test_with_the_real_prediction_more_load_never_needs_fewer_either(accelerator: str) -> None:
    for model in ("R1", "Llama-3.1-8B"):
        least = []
        for load in (0.1, 0.5, 2, 5, 10, 50, 300, 1000):
            made = plan(asked(model, accelerator, workload=Workload(requests_per_s=load)), REAL)
            least.append(min((option.count for option in made.options), default=10**9))
        assert least == sorted(least)


@pytest.mark.timing
def test_a_plan_and_a_sweep_are_quick() -> None:
    def best_s(*accelerators: str) -> float:
        question = asked("R1", *accelerators, workload=Workload(requests_per_s=50))

        def once() -> float:
            started = time.perf_counter()
            plan(question, REAL, CATALOG.precisions)
            return time.perf_counter() - started

        return min(once() for _ in range(3))

    assert best_s("H200") < 0.3
    assert best_s(*ALL) < 3
