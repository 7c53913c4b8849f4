"""A measured machine: its loop stepped, its times found again from points, and what it refuses."""

from __future__ import annotations

import msgspec
import pytest
from fake_speed import fake_predict
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.base.errors import BadRequest, Misconfigured
from sextant.planner.local_speed import (
    Loop,
    Machine,
    checked,
    fitted,
    local_predictor,
    loop_of,
    missed_by,
    run,
)
from sextant.planner.memory import memory_use
from sextant.spec.facts import load_catalog
from sextant.spec.local_calibration import LocalCalibration, LocalPoint, calibration_text, read_calibration
from sextant.spec.planning import Layout, Question, Speed, Targets, Wishes, Workload

CATALOG = load_catalog()
KNOWN = LocalCalibration(
    version=1,
    model="sextant-nano",
    accelerator="cpu-desktop",
    precision="q8",
    measured='measured at "home"',
    request_s=0.01,
    prompt_s_per_token=0.5e-3,
    prompt_s_per_token2=0.3e-6,
    step_s=1.5e-3,
    step_s_per_request=0.7e-3,
    step_s_per_token=1.7e-6,
    held_tokens=1,
    slots=4,
    batch_tokens=2048,
    band=1.2,
    points=(),
)


def loop(concurrency: int, inputs: int, outputs: int = 64, rounds: int = 4) -> Loop:
    return Loop(concurrency=concurrency, rounds=rounds, input_tokens=inputs, output_tokens=outputs)


def point(one: Loop, machine: LocalCalibration = KNOWN, noise: float = 1.0) -> LocalPoint:
    """What a machine of exactly those times would have been measured at."""
    seen = run(machine, one)
    return LocalPoint(
        concurrency=one.concurrency,
        rounds=one.rounds,
        input_tokens=one.input_tokens,
        output_tokens=one.output_tokens,
        ttft_ms=seen.ttft_s * 1000 * noise,
        tpot_ms=seen.tpot_s * 1000 * noise,
    )


def machine(**more: object) -> Machine:
    about = msgspec.structs.asdict(KNOWN)
    fields = {name: about[name] for name in Machine.__struct_fields__}
    return msgspec.convert({**fields, **more}, Machine)


POINTS = [point(loop(1, inputs)) for inputs in (64, 533, 1536)]
CROWD = point(loop(4, 256))


def test_a_lone_answer_is_the_sum_of_its_parts() -> None:
    plain = msgspec.structs.replace(KNOWN, held_tokens=0, step_s_per_token=0.0)
    seen = run(plain, loop(1, 100, outputs=11, rounds=1))
    assert seen.ttft_s == pytest.approx(0.01 + 100 * 0.5e-3 + 100**2 * 0.3e-6)
    assert seen.tpot_s == pytest.approx(1.5e-3)
    assert seen.requests_per_s == pytest.approx(1 / (seen.ttft_s + 10 * seen.tpot_s))
    held = run(KNOWN, loop(1, 100, outputs=11, rounds=1))
    assert held.ttft_s > seen.ttft_s + 1.5e-3, "the first text comes with the second token"


def test_a_prompt_stands_in_the_way_of_those_that_are_being_answered() -> None:
    alone, two = run(KNOWN, loop(1, 1000, outputs=400)), run(KNOWN, loop(2, 1000, outputs=400))
    prompt_s = 1000 * 0.5e-3 + 1000**2 * 0.3e-6
    assert two.tpot_s - alone.tpot_s > 0.8 * prompt_s / 400
    assert run(KNOWN, loop(8, 64)).ttft_s > 3 * run(KNOWN, loop(4, 64)).ttft_s, "four wait for a slot"


def test_a_prompt_longer_than_a_batch_takes_several_steps() -> None:
    small = msgspec.structs.replace(KNOWN, batch_tokens=64)
    assert run(small, loop(1, 1000)).ttft_s == pytest.approx(run(KNOWN, loop(1, 1000)).ttft_s)
    assert run(small, loop(3, 1000)).requests_per_s > 0


def test_the_fit_finds_the_times_that_made_the_points() -> None:
    found = fitted(POINTS, CROWD, machine())
    for name in ("request_s", "prompt_s_per_token", "prompt_s_per_token2", "step_s", "step_s_per_token"):
        assert getattr(found, name) == pytest.approx(getattr(KNOWN, name), rel=0.35), name
    for held in (loop(2, 128), loop(3, 700, 100), loop(8, 256), loop(1, 1000)):
        assert missed_by(found, point(held)) < 1.03


@settings(max_examples=30, deadline=None)
@given(noise=st.lists(st.floats(0.93, 1.07), min_size=4, max_size=4))
def test_a_busy_machine_s_noise_stays_within_a_quarter(noise: list[float]) -> None:
    shapes = [loop(1, 64), loop(1, 533), loop(1, 1536)]
    lone = [point(one, noise=by) for one, by in zip(shapes, noise, strict=False)]
    found = fitted(lone, point(loop(4, 256), noise=noise[3]), machine())
    assert max(missed_by(found, point(held)) for held in (loop(2, 256), loop(8, 64), loop(1, 1000))) < 1.25


def test_the_band_is_what_unseen_points_were_missed_by() -> None:
    found = fitted(POINTS, CROWD, machine())
    assert checked(found, []).band == 1.1
    late = msgspec.structs.replace(point(loop(2, 128)), tpot_ms=100.0)
    assert missed_by(found, late) > 5
    assert checked(found, [late]).band == pytest.approx(missed_by(found, late))
    assert loop_of(late) == loop(2, 128)


@pytest.mark.parametrize(
    ("lone", "crowd"), [(POINTS[:1], CROWD), (POINTS, POINTS[0]), ([CROWD, *POINTS], CROWD), ([], CROWD)]
)
def test_points_that_say_nothing_are_refused(lone: list[LocalPoint], crowd: LocalPoint) -> None:
    with pytest.raises(BadRequest, match="two prompt lengths or more"):
        fitted(lone, crowd, machine())


def test_points_that_fall_with_length_still_give_times_of_zero_or_more() -> None:
    odd = [msgspec.structs.replace(one, ttft_ms=50.0 - at, tpot_ms=2.0) for at, one in enumerate(POINTS)]
    found = fitted(odd, CROWD, machine())
    assert min(found.request_s, found.prompt_s_per_token, found.prompt_s_per_token2) >= 0
    assert found.step_s == pytest.approx(2e-3, rel=0.01)


def predicted(
    *,
    targets: Targets | None = None,
    concurrency: int | None = None,
    model: str = "sextant-nano",
    dp: int = 1,
) -> Speed:
    device = CATALOG.accelerator("cpu-desktop")
    question = Question(
        architecture=CATALOG.model(model),
        precision="q8",
        engine="embedded",
        accelerators=(device,),
        workload=Workload(requests_per_s=0.5, input_tokens=200, output_tokens=64),
        targets=targets or Targets(),
        wishes=Wishes(concurrency=concurrency),
    )
    layout = Layout(dp=dp)
    found = msgspec.structs.replace(KNOWN, points=(CROWD,))
    return local_predictor(found, fake_predict)(
        question, layout, device, memory_use(question, layout, device)
    )


def test_the_measured_machine_is_predicted_by_its_own_times_and_others_are_not() -> None:
    one = predicted(concurrency=3)
    seen = run(KNOWN, loop(3, 200))
    assert one.tpot_ms.value == pytest.approx(seen.tpot_s * 1000)
    assert one.tpot_ms.basis == "calibrated" and one.tpot_ms.sources == ('measured at "home"',)
    assert one.tpot_ms.high == pytest.approx(1.2 * one.tpot_ms.value)
    assert one.running_most == 4 and one.warnings == ()
    assert "far beyond the 4" in predicted(concurrency=40).warnings[0]
    other = predicted(model="r1-distill-qwen-1_5b")
    assert other.tpot_ms.sources == ("fake",)


def test_more_targets_leave_less_load_and_two_machines_carry_twice_as_much() -> None:
    free, strict = predicted(), predicted(targets=Targets(ttft_ms_p99=400))
    assert 0 < strict.requests_per_s_max.value <= free.requests_per_s_max.value
    assert predicted(targets=Targets(tpot_ms_p99=0.1)).requests_per_s_max.value == 0
    assert predicted(targets=Targets(end_to_end_ms=1)).requests_per_s_max.value == 0
    assert predicted(dp=2).requests_per_s_max.value == pytest.approx(2 * free.requests_per_s_max.value)


def test_a_calibration_is_the_same_after_its_file() -> None:
    whole = msgspec.structs.replace(KNOWN, points=(*POINTS, CROWD))
    assert read_calibration(calibration_text(whole), "here") == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("version = 2", "version is 2; expected 1"),
        ("step_s = -1.0", "step_s is -1.0"),
        ("slots = 0", "above 0"),
        ("band = 0.5", "band is 1 or more"),
        ("slots = 'four'", "no calibration of a machine"),
        ("slots = ", "not valid TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_field(change: str, said: str) -> None:
    name = change.split(" = ")[0]
    lines = [*calibration_text(KNOWN).splitlines(), "points = []"]
    text = "\n".join(change if line.startswith(f"{name} =") else line for line in lines)
    with pytest.raises(Misconfigured, match="--calibrate URL") as refused:
        read_calibration(text, "machine.toml")
    assert said in refused.value.message and refused.value.message.startswith("machine.toml")
