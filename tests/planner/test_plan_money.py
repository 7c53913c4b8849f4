"""What an option costs: by hand-made sums, with prices missing, and the directions that must hold."""

from __future__ import annotations

import msgspec
import pytest

from sextant.base.errors import Misconfigured
from sextant.planner.cost import Have, api_usd_per_mtok, capital_usd, cost_of, unit_of, ways_of
from sextant.planner.energy import cap_saving, energy_of
from sextant.planner.money import Swing, money_of
from sextant.spec.facts import load_catalog
from sextant.spec.hardware import Accelerator, HourPrices
from sextant.spec.hardware_prices import FACTS, Prices, load_prices
from sextant.spec.planning import Estimate, Layout, Question, Speed, StatedCosts, Workload

CATALOG = load_catalog()
PRICES = load_prices()
NOTHING_STATED = StatedCosts()
LOAD = Workload(requests_per_s=2.0, input_tokens=1000, output_tokens=500)


def exactly(value: float, unit: str = "1") -> Estimate:
    return Estimate(value=value, low=value, high=value, unit=unit, basis="stated")


def speed(requests_per_s_max: float) -> Speed:
    ms = exactly(20.0, "ms")
    return Speed(
        concurrency=8,
        ttft_ms=ms,
        tpot_ms=ms,
        ttft_ms_p99=ms,
        tpot_ms_p99=ms,
        output_tokens_per_s=exactly(400.0),
        requests_per_s_max=exactly(requests_per_s_max),
    )


def have(
    accelerator: str | Accelerator = "h100-sxm",
    *,
    costs: StatedCosts = NOTHING_STATED,
    load: Workload = LOAD,
    most: float = 4.0,
    prices: Prices = PRICES,
) -> Have:
    card = CATALOG.accelerator(accelerator) if isinstance(accelerator, str) else accelerator
    question = Question(
        architecture=CATALOG.model("deepseek-r1"),
        precision="fp8",
        accelerators=(card,),
        workload=load,
        costs=costs,
    )
    return Have(question=question, accelerator=card, count=8, speed=speed(most), prices=prices)


def test_every_price_has_a_source_a_unit_and_an_ordered_band() -> None:
    assert set(PRICES.facts) == set(FACTS)
    for name, fact in PRICES.facts.items():
        value, low, high = PRICES.band(name)
        assert low <= value <= high and fact.unit, name
    for source in PRICES.sources:
        if source != "your prices":
            assert PRICES.sources[source].date is not None, source
    for api in PRICES.apis:
        assert all(model in CATALOG.models for model in api.models), api.id
    assert all(card in CATALOG.accelerators for card in PRICES.cards)


def test_the_hour_is_what_renting_takes() -> None:
    given = have(costs=StatedCosts(usd_per_h=2.0))
    cost = cost_of(PRICES)(given.question, given.accelerator, Layout(tp=8), given.speed)
    assert cost.usd_per_h is not None and cost.usd_per_mtok is not None
    assert cost.usd_per_h.value == pytest.approx(16.0)
    assert cost.usd_per_mtok.value == pytest.approx(16.0 / (2.0 * 500 * 3600) * 1e6)
    assert cost.usd_per_mtok.low <= cost.usd_per_mtok.value <= cost.usd_per_mtok.high


def test_what_is_bought_is_card_server_power_upkeep_and_what_is_stated() -> None:
    costs = StatedCosts(
        price_usd=30_000, power_usd_per_kwh=0.1, pue=1.2, space_usd_per_month=500, staff_usd_per_month=4000
    )
    given = have(costs=costs)
    own = ways_of(given)[0]
    assert own.mode == "on-prem" and own.missing == ()
    assert own.upfront_usd is not None and own.usd_per_month is not None and own.total_usd is not None
    assert own.upfront_usd.value == pytest.approx(8 * 30_000 * 1.4)
    watts = 8 * 700 * (0.12 + (0.6 - 0.12) * 0.5) * 1.4 * 1.2
    month = watts / 1000 * 730 * 0.1 + 336_000 * 0.05 / 12 + 4500
    assert own.usd_per_month.value == pytest.approx(month)
    assert own.total_usd.value == pytest.approx(336_000 + 36 * month)
    assert own.tokens_per_usd == pytest.approx(1000 * 730 * 3600 * 36 / own.total_usd.value)


def test_a_missing_price_is_named_and_nothing_is_guessed() -> None:
    card = msgspec.structs.replace(CATALOG.accelerator("h20"), usd_per_h=HourPrices(), price_usd=None)
    given = have(card)
    cost = cost_of(PRICES)(given.question, card, Layout(tp=8), given.speed)
    assert cost.usd_per_h is None and cost.usd_per_mtok is None and cost.capital_usd is None
    assert "--usd-per-h" in cost.missing[0]
    money = money_of(given)
    unknown = {way.mode for way in money.ways if way.total_usd is None}
    assert unknown == {"on-prem", "private-cloud", "hybrid", "edge", "container"}
    assert all(way.missing for way in money.ways if way.total_usd is None)
    assert money.break_evens == () and money.spot_training is None
    assert {one.mode for one in money.sensitivity} == {"saas"}


def test_bought_where_nothing_is_rented() -> None:
    given = have("jetson-thor")
    cost = cost_of(PRICES)(given.question, given.accelerator, Layout(dp=8), given.speed)
    assert cost.usd_per_h is not None and cost.usd_per_h.formula.startswith("bought")
    capital = capital_usd(given)
    assert capital is not None and capital.value == 8 * given.accelerator.price_usd  # no server around it
    hybrid = next(
        way for way in ways_of(have("jetson-thor", load=Workload(swing=4.0))) if way.mode == "hybrid"
    )
    assert hybrid.total_usd is None and "on demand" in hybrid.missing[0]


def test_a_load_that_swings_buys_the_mean_and_rents_the_rest() -> None:
    costs = StatedCosts(usd_per_h=2.0, price_usd=30_000)
    load = Workload(requests_per_s=1.0, input_tokens=1000, output_tokens=500, swing=4.0)
    own, _, hybrid, *_ = ways_of(have(costs=costs, load=load))
    assert "2 bought" in hybrid.how and "6 rented" in hybrid.how
    assert hybrid.upfront_usd is not None and own.upfront_usd is not None
    assert hybrid.upfront_usd.value == pytest.approx(own.upfront_usd.value / 4)
    steady = ways_of(have(costs=costs))[2]
    assert steady.upfront_usd == own.upfront_usd  # nothing swings: all of it bought


def test_an_api_charges_hits_misses_and_answers() -> None:
    api = next(one for one in PRICES.apis if one.id == "deepseek-r1")
    load = Workload(input_tokens=1000, output_tokens=500, prefix_hit_share=0.25)
    question = msgspec.structs.replace(have().question, workload=load)
    assert api_usd_per_mtok(question, api) == pytest.approx(2.19 + 2 * (0.25 * 0.14 + 0.75 * 0.55))


def test_break_even_is_where_both_cost_the_same() -> None:
    money = money_of(have(most=1e6, costs=StatedCosts(usd_per_h=1.0)))
    one = next(each for each in money.break_evens if each.api.startswith("Together"))
    assert one.tokens_per_s is not None and one.sold
    api = next(each for each in PRICES.apis if each.id == "together-r1")
    per_mtok = api_usd_per_mtok(have().question, api)
    assert one.tokens_per_s * 730 * 3600 / 1e6 * per_mtok == pytest.approx(one.own_usd_per_month)
    small = money_of(have(most=2.0, costs=StatedCosts(usd_per_h=50.0, price_usd=1e6)))
    assert all(each.tokens_per_s is None for each in small.break_evens)


def test_break_even_counts_half_of_the_hours_as_peak() -> None:
    given = have(most=1e6, costs=StatedCosts(usd_per_h=1.0))
    question = msgspec.structs.replace(given.question, architecture=CATALOG.model("deepseek-v4-pro"))
    money = money_of(msgspec.structs.replace(given, question=question))
    one = next(each for each in money.break_evens if each.api.startswith("DeepSeek"))
    tokens_per_month = 2.0 * 500 * 730 * 3600
    per_mtok = (1.98 + 2 * 0.66) * 1.5  # peak hours cost twice as much
    assert one.api_usd_per_month == pytest.approx(tokens_per_month / 1e6 * per_mtok)
    assert one.tokens_per_s == pytest.approx(one.own_usd_per_month / per_mtok * 1e6 / (730 * 3600))


def test_what_moves_the_sum_most_comes_first_and_what_is_stated_does_not_move() -> None:
    swings = swings_of(have())["on-prem"]
    assert next(iter(swings)) == "price_usd"
    widths = [abs(swing.high_usd - swing.low_usd) for swing in swings.values()]
    assert widths == sorted(widths, reverse=True) and widths[-1] > 0
    said = swings_of(have(costs=StatedCosts(pue=1.1, price_usd=3e4)))["on-prem"]
    assert "pue" not in said and "price_usd" not in said and "power_usd_per_kwh" in said


def test_every_mode_with_a_price_says_what_moves_it() -> None:
    load = Workload(requests_per_s=2.0, input_tokens=1000, output_tokens=500, swing=4.0)
    found = swings_of(have(load=load))
    assert set(found) == {"on-prem", "private-cloud", "hybrid", "container", "saas"}
    assert set(found["private-cloud"]) == {"usd_per_h"}
    rent = found["private-cloud"]["usd_per_h"]
    assert (rent.low, rent.high) == (1.99, 3.15)
    assert rent.high_usd / rent.low_usd == pytest.approx(3.15 / 1.99)
    assert {"price_usd", "usd_per_h", "peak_hours_share"} <= set(found["hybrid"])
    assert {"usd_per_h", "peak_hours_share"} == set(found["container"])
    assert found["saas"]["requests_per_s"].high_usd == pytest.approx(
        3 * found["saas"]["requests_per_s"].low_usd
    )
    stated = swings_of(have(load=load, costs=StatedCosts(usd_per_h=2.0)))
    assert "private-cloud" in stated and stated["private-cloud"] == {}


def test_hits_and_peak_hours_move_an_api_that_charges_by_them() -> None:
    given = have()
    question = msgspec.structs.replace(given.question, architecture=CATALOG.model("deepseek-v4-pro"))
    found = swings_of(msgspec.structs.replace(given, question=question))["saas"]
    hits, peak = found["prefix_hit_share"], found["api_peak_share"]
    assert hits.high_usd < hits.low_usd  # the more is found, the less is paid
    assert peak.high_usd == pytest.approx(2 * peak.low_usd)


def swings_of(given: Have) -> dict[str, dict[str, Swing]]:
    """Mode, and of the first of its ways each assumption with its swing."""
    found: dict[str, dict[str, Swing]] = {}
    for one in money_of(given).sensitivity:
        found.setdefault(one.mode, {swing.assumption: swing for swing in one.swings})
    return found


def test_what_serves_together_is_bought_and_rented_together() -> None:
    load = Workload(requests_per_s=1.0, input_tokens=1000, output_tokens=500, swing=3.0)
    given = msgspec.structs.replace(have(load=load), count=32, replica=8)
    hybrid = next(way for way in ways_of(given) if way.mode == "hybrid")
    assert hybrid.how.startswith("16 bought") and "16 rented" in hybrid.how  # two of four, not 10.7 cards
    whole = next(way for way in ways_of(msgspec.structs.replace(given, replica=32)) if way.mode == "hybrid")
    assert whole.how.startswith("32 bought") and "0 rented" in whole.how


def test_the_unit_of_a_split_is_its_smallest_proportion() -> None:
    assert unit_of(Layout(tp=8, pp=2, dp=4)) == 16
    split = Layout(prefill=Layout(tp=8, dp=16), decode=Layout(tp=8, dp=48))
    assert unit_of(split) == 32


def test_the_bought_part_of_a_hybrid_draws_what_the_mean_load_takes() -> None:
    """Half of the cards at twice the share: more than half of the power, as idle cards are left out."""
    costs = StatedCosts(price_usd=30_000, usd_per_h=2.0, power_usd_per_kwh=0.1, pue=1.0)
    load = Workload(requests_per_s=2.0, input_tokens=1000, output_tokens=500, swing=2.0)
    prices = load_prices("[fact.maintenance_share_per_year]\nvalue = 0\n[fact.peak_hours_share]\nvalue = 0")
    hybrid = next(way for way in ways_of(have(costs=costs, load=load, prices=prices)) if way.mode == "hybrid")
    watts = 4 * 700 * (0.12 + 0.48 * 1.0) * 1.4
    assert hybrid.usd_per_month is not None
    assert hybrid.usd_per_month.value == pytest.approx(watts / 1000 * 730 * 0.1)


def test_a_rent_of_nothing_costs_nothing() -> None:
    given = have(costs=StatedCosts(usd_per_h=0.0))
    cost = cost_of(PRICES)(given.question, given.accelerator, Layout(tp=8), given.speed)
    assert cost.usd_per_h is not None and cost.usd_per_h.value == cost.usd_per_h.high == 0.0
    assert money_of(given).spot_training is None


def test_on_demand_follows_the_swing_and_reserved_does_not() -> None:
    costs = StatedCosts(usd_per_h=2.0)
    load = Workload(requests_per_s=1.0, input_tokens=1000, output_tokens=500, swing=4.0)
    ways = {way.mode: way for way in ways_of(have("h200", costs=costs, load=load)) if way.mode != "saas"}
    reserved, container = ways["private-cloud"].usd_per_month, ways["container"].usd_per_month
    assert reserved is not None and reserved.value == pytest.approx(8 * 2.0 * 730)
    total = ways["private-cloud"].total_usd
    assert total is not None and total.value == pytest.approx(36 * reserved.value)
    assert container is not None and container.value == pytest.approx((2 + 6 * 0.2) * 2.0 * 730)


def test_the_edge_is_for_what_one_circuit_feeds() -> None:
    edge = next(way for way in ways_of(have()) if way.mode == "edge")
    assert edge.total_usd is None and "3,680 W" in edge.missing[0]
    hall, _, _, small, *_ = ways_of(have("jetson-thor", costs=StatedCosts(price_usd=3500)))
    assert small.mode == "edge" and small.usd_per_month is not None and hall.usd_per_month is not None
    kept = 8 * 3500 * 0.05 / 12
    # No hall around it: the power alone, without the average PUE.
    assert hall.usd_per_month.value - kept == pytest.approx(1.54 * (small.usd_per_month.value - kept))


def test_spot_training_pays_for_its_interruptions() -> None:
    calm = money_of(have()).spot_training
    own = '[fact.spot_hours_between_interruptions]\nvalue = 0.25\nunit = "h"'
    rough = money_of(have(prices=load_prices(own))).spot_training
    assert calm is not None and rough is not None
    assert calm.spot_usd_per_h == 1.03 and calm.slowdown.value > 1
    assert rough.slowdown.value > calm.slowdown.value
    assert rough.saving_share.value < calm.saving_share.value
    assert calm.saving_share.low <= calm.saving_share.value <= calm.saving_share.high
    assert money_of(have("h200")).spot_training.spot_usd_per_h == pytest.approx(4.18 * 0.4)  # type: ignore[union-attr]


def test_energy_follows_load_pue_and_grid() -> None:
    def of(costs: StatedCosts, most: float = 4.0) -> tuple[float, float, float]:
        given = have(costs=costs, most=most)
        energy = energy_of(given.question, given.accelerator, count=8, speed=given.speed, prices=PRICES)
        return energy.watts.value, energy.co2_g_per_mtok.value, energy.liquid_kwh_per_mtok

    watts, co2, liquid = of(StatedCosts(pue=1.5, co2_g_per_kwh=500))
    assert watts == pytest.approx(8 * 700 * (0.12 + 0.48 * 0.5) * 1.4 * 1.5)
    assert co2 == pytest.approx(watts / 1000 / 3.6 * 500)  # 1,000 tokens a second are 3.6 million an hour
    assert liquid == pytest.approx(watts / 1000 / 3.6 * 1.1 / 1.5)
    assert of(StatedCosts(pue=1.5, co2_g_per_kwh=500), most=2.0)[0] > watts
    assert of(StatedCosts(), most=0.0)[1] == 0.0  # it serves nothing


def test_energy_follows_the_mean_load_and_not_the_peak() -> None:
    def watts(swing: float) -> float:
        load = Workload(requests_per_s=1.0, input_tokens=1000, output_tokens=500, swing=swing)
        return have(load=load).energy.watts.value

    assert watts(4.0) == watts(1.0)


def test_a_lower_cap_saves_between_nothing_and_all_of_the_difference() -> None:
    card = msgspec.structs.replace(CATALOG.accelerator("a100-80"), watts=250)
    given = have(card, costs=StatedCosts(pue=1.1, power_usd_per_kwh=0.1))
    saving = cap_saving(given.question, card, count=8, prices=PRICES)
    assert (saving.from_w, saving.to_w) == (250, 150)
    assert saving.kwh_per_year.high == pytest.approx(0.1 * 8 * 10 * 365 * 1.1)
    assert saving.kwh_per_year.low == 0.0
    assert saving.usd_per_year.high == pytest.approx(saving.kwh_per_year.high * 0.1)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("[fact.pue]\nvalue = 0.9", "PUE is 1 or more"),
        ("[fact.peu]\nvalue = 1.2", "nearest: pue"),
        ("[fact.pue]\nvalue = 1.2\nlow = 1.3", "not between"),
        ("[fact.spot_discount]\nvalue = -1", "0 or more"),
        ("[fact.idle_power_share]\nvalue = 1.5", "share is 0 to 1"),
        ('[fact.pue]\nvalue = 1.2\nsource = "nowhere"', "[source.nowhere]"),
        ("[card.h200]\nprice = 3", "its fields are price_usd"),
        ("[cards.h200]\nprice_usd = 3", "no section `cards`"),
        ("fact = ", "not valid TOML"),
    ],
)
def test_a_wrong_price_file_is_refused_with_the_place(own: str, said: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load_prices(own, "mine.toml")
    assert said in caught.value.message


def test_own_prices_lie_on_top_without_the_band_of_another() -> None:
    own = """
    [fact.pue]
    value = 1.08
    [card.h200]
    price_usd = 35_000
    [[api]]
    id = "together-r1"
    title = "our contract"
    models = ["deepseek-r1"]
    input_usd_per_mtok = 1.0
    output_usd_per_mtok = 2.0
    """
    prices = load_prices(own, "mine.toml")
    assert prices.band("pue") == (1.08, 1.08, 1.08)
    assert prices.said(prices.facts["pue"].source) == "mine.toml"
    assert prices.cards["h200"].price_usd == 35_000 and "h100-sxm" in prices.cards
    assert [api.title for api in prices.apis if api.id == "together-r1"] == ["our contract"]
