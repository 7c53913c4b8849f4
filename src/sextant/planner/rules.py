"""The hard rules on top of the scores, and what does not go together. For `advise.py`; pure.

A rule leads to modes (they come before all others) or excludes modes. Which ones it names is data
(`spec/data/modes.toml`); when it applies stands here, one condition a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sextant.spec.advice import AppliedRule, Mode, Requirements, Said
from sextant.spec.advice_data import BudgetLevel, ModesData, RuleData

FAST_RELEASES = ("weekly", "daily")
OWN_NETWORKS = ("network", "site")
HOURS_PER_MONTH = 730.0
BURDENSOME_STARS = 4
"""From so many stars, investment and technical threshold are called out against a small budget or team."""

Values = dict[str, str | float | tuple[str, ...]]


def applied_rules(needs: Requirements, data: ModesData) -> tuple[AppliedRule, ...]:
    """The rules that apply to settled requirements, in the order of the data; the profile's own last."""
    found = []
    for name, rule in data.rule.items():
        values = _CONDITIONS[name](needs, data)
        if values is not None:
            found.append(_applied(name, rule, Said(f"rule.{name}", values)))
    if needs.profile is not None:
        own = data.profile[needs.profile]
        latency_fits = own.latency_ms_most is None or (
            needs.latency_ms is not None and needs.latency_ms <= own.latency_ms_most
        )
        if (own.leads or own.excludes) and latency_fits:
            name = f"profile-{needs.profile}"
            rule = RuleData(basis="specified", leads=own.leads, excludes=own.excludes)
            found.append(_applied(name, rule, Said(f"rule.{name}", {"most": own.latency_ms_most or 0.0})))
    return tuple(found)


def budget_level(amount_usd: float | None, which: str, data: ModesData) -> BudgetLevel:
    """`small`, `medium`, `large` or `unstated`; `which` is `upfront` or `monthly`."""
    if amount_usd is None:
        return "unstated"
    if amount_usd < data.at(f"{which}_small_usd"):
        return "small"
    return "medium" if amount_usd < data.at(f"{which}_large_usd") else "large"


def contradictions(
    needs: Requirements, rules: Sequence[AppliedRule], first: Mode, data: ModesData
) -> tuple[Said, ...]:
    """What cannot be had together: rules that work against each other, wishes that physics, money or people
    do not allow with the mode `first`."""
    excluded = {mode for rule in rules for mode in rule.excludes}
    found = [
        Said(
            "contradiction.rules",
            {
                "rule": f"@rule.{rule.rule}.name",
                "modes": tuple(f"@mode.{mode}" for mode in rule.leads),
                "by": tuple(f"@rule.{by.rule}.name" for by in rules if set(by.excludes) & set(rule.leads)),
            },
        )
        for rule in rules
        if rule.leads and set(rule.leads) <= excluded
    ]
    for check in (_wishes, _physics, _money, _people):
        found += check(needs, first, data)
    return tuple(found)


def _applied(name: str, rule: RuleData, said: Said) -> AppliedRule:
    return AppliedRule(name, rule.basis, rule.leads, rule.excludes, said)


def _data_stays(needs: Requirements, _: ModesData) -> Values | None:
    return {"stays": f"@stays.{needs.stays}"} if needs.stays in OWN_NETWORKS else None


def _edge_latency(needs: Requirements, data: ModesData) -> Values | None:
    limit_ms = data.at("latency_ms")
    if needs.latency_ms is None or needs.latency_ms >= limit_ms or needs.network != "none":
        return None
    return {"latency": needs.latency_ms, "limit": limit_ms}


def _swinging_load(needs: Requirements, data: ModesData) -> Values | None:
    limit = data.at("swing")
    return {"swing": needs.swing, "limit": limit} if needs.swing and needs.swing >= limit else None


def _fast_iteration(needs: Requirements, _: ModesData) -> Values | None:
    return {"releases": f"@releases.{needs.releases}"} if needs.releases in FAST_RELEASES else None


def _small_budget(needs: Requirements, data: ModesData) -> Values | None:
    levels = {
        budget_level(needs.upfront_usd, "upfront", data),
        budget_level(needs.monthly_usd, "monthly", data),
    }
    if levels - {"unstated"} != {"small"}:
        return None
    return {"upfront": data.at("upfront_small_usd"), "monthly": data.at("monthly_small_usd")}


def _no_network(needs: Requirements, _: ModesData) -> Values | None:
    return {} if needs.network == "none" else None


def _restricted_data(needs: Requirements, _: ModesData) -> Values | None:
    return {} if needs.data == "restricted" else None


_CONDITIONS: dict[str, Callable[[Requirements, ModesData], Values | None]] = {
    "data-stays": _data_stays,
    "edge-latency": _edge_latency,
    "swinging-load": _swinging_load,
    "fast-iteration": _fast_iteration,
    "small-budget": _small_budget,
    "no-network": _no_network,
    "restricted-data": _restricted_data,
}


def _wishes(needs: Requirements, _: Mode, __: ModesData) -> list[Said]:
    found = []
    if needs.data == "restricted" and needs.stays == "anywhere":
        found.append(Said("contradiction.restricted-anywhere"))
    if needs.data == "public" and needs.stays in OWN_NETWORKS:
        found.append(Said("contradiction.public-stays", {"stays": f"@stays.{needs.stays}"}))
    if needs.network == "none" and needs.releases in FAST_RELEASES:
        found.append(Said("contradiction.offline-releases", {"releases": f"@releases.{needs.releases}"}))
    return found


def _physics(needs: Requirements, first: Mode, data: ModesData) -> list[Said]:
    found = []
    if needs.latency_ms is not None and needs.output_tokens is not None:
        least_ms = needs.output_tokens * data.at("token_floor_ms")
        if needs.latency_ms < least_ms:
            found.append(
                Said(
                    "contradiction.latency-length",
                    {
                        "latency": needs.latency_ms,
                        "tokens": float(needs.output_tokens),
                        "least": round(least_ms, 1),
                        "floor": data.at("token_floor_ms"),
                        "most": float(int(needs.latency_ms / data.at("token_floor_ms"))),
                    },
                )
            )
    if first == "saas" and needs.latency_ms is not None and needs.latency_ms < data.at("public_network_ms"):
        found.append(Said("contradiction.latency-saas", {"latency": needs.latency_ms}))
    return found


def _money(needs: Requirements, first: Mode, data: ModesData) -> list[Said]:
    found = []
    stars = data.stars[first]
    upfront = budget_level(needs.upfront_usd, "upfront", data)
    if upfront == "small" and stars["investment"] >= BURDENSOME_STARS:
        found.append(
            Said("contradiction.investment", {"mode": f"@mode.{first}", "stars": float(stars["investment"])})
        )
    costs_usd = saas_usd_per_month(needs, data)
    have_usd = needs.monthly_usd
    if first == "saas" and costs_usd is not None and have_usd is not None and costs_usd > have_usd:
        found.append(
            Said(
                "contradiction.load-budget",
                {
                    "costs": float(round(costs_usd)),
                    "price": data.at("saas_usd_per_mtok"),
                    "monthly": have_usd,
                },
            )
        )
    return found


def _people(needs: Requirements, first: Mode, data: ModesData) -> list[Said]:
    stars = data.stars[first]["threshold"]
    if needs.team != "novice" or stars < BURDENSOME_STARS:
        return []
    return [Said("contradiction.team", {"mode": f"@mode.{first}", "stars": float(stars)})]


def saas_usd_per_month(needs: Requirements, data: ModesData) -> float | None:
    """What the stated load costs at the reference price of SaaS; None where the load is not stated whole."""
    if needs.requests_per_s is None or needs.input_tokens is None or needs.output_tokens is None:
        return None
    tokens = needs.requests_per_s * (needs.input_tokens + needs.output_tokens) * HOURS_PER_MONTH * 3600
    return tokens / 1e6 * data.at("saas_usd_per_mtok")
