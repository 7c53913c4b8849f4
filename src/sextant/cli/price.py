"""`sextant price`: price plans. A price is never changed: a newer one takes over from a moment on."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import out, print_json, print_table
from sextant.cli.values import PPM, amount, amount_nano, day_shown, factor_ppm, moment_ms, path_part

app = typer.Typer(help="List price plans and set prices, a million tokens.", no_args_is_help=True)

Plan = Annotated[str, typer.Argument(metavar="PLAN", help="A price plan's id.")]


@app.command("list")
def prices(
    plan: Annotated[str, typer.Argument(metavar="[PLAN]", help="Only this plan.", show_default="all")] = "",
    every: Annotated[bool, typer.Option("--all", help="Past prices too.")] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """List price plans with their prices a million tokens."""
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    plans = (
        [api.call("GET", f"/v1/plans/{path_part(plan)}")] if plan else api.call("GET", "/v1/plans")["plans"]
    )
    if json:
        print_json(plans)
        return
    _table(plans, every=every)


@app.command("plan")
def put_plan(
    plan: Plan,
    currency: Annotated[
        str | None, typer.Option(help="Its currency, for good; a new plan needs one.")
    ] = None,
    package_factor: Annotated[
        str | None, typer.Option(help="What an annual package costs of its face value, as 0.5.")
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKENS=FACTOR",
            help="Tokens of a month beyond TOKENS cost FACTOR, as 100000000=0.6; "
            "again for more steps; `none` for none.",
        ),
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Make a price plan, or change its volume steps and package factor."""
    from sextant.base.errors import BadRequest, NotFound
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    target = f"/v1/plans/{path_part(plan)}"
    try:
        before = api.call("GET", target)
    except NotFound:
        if currency is None:
            raise BadRequest(f"there is no plan {plan}; to make it, name its --currency") from None
        before = {"currency": currency, "volume": [], "package_factor_ppm": PPM}
    terms = {name: before[name] for name in ("currency", "volume", "package_factor_ppm")}
    if currency is not None:
        terms["currency"] = currency
    if package_factor is not None:
        terms["package_factor_ppm"] = factor_ppm(package_factor, "--package-factor")
    if volume:
        terms["volume"] = [_step(step) for step in volume if step != "none"]
    made = api.call("PUT", target, terms)
    if json:
        print_json(made)
        return
    _table([made], every=False)


@app.command("set")
def change(
    plan: Plan,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's id, or '*' for all without a price.")
    ],
    input_price: Annotated[str, typer.Option("--input", help="A million input tokens, as 3.00.")],
    output_price: Annotated[str | None, typer.Option("--output", help="Output; unset: as input.")] = None,
    cached: Annotated[str | None, typer.Option(help="Input found in the cache; unset: as input.")] = None,
    reasoning: Annotated[str | None, typer.Option(help="Reasoning; unset: as output.")] = None,
    request: Annotated[str, typer.Option(help="Each request besides.")] = "0",
    since: Annotated[
        str | None, typer.Option("--from", help="When it begins, as 2026-12-01.", show_default="now")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Set a model's price from now, or from a moment to come; the one before it ends there."""
    from sextant.cli.admin import AdminApi

    input_nano = amount_nano(input_price)
    output_nano = input_nano if output_price is None else amount_nano(output_price)
    body = {
        "model": model,
        "input_nano_per_mtok": input_nano,
        "cached_nano_per_mtok": input_nano if cached is None else amount_nano(cached),
        "output_nano_per_mtok": output_nano,
        "reasoning_nano_per_mtok": output_nano if reasoning is None else amount_nano(reasoning),
        "request_nano": amount_nano(request),
        "valid_from_ms": 0 if since is None else moment_ms(since, "--from"),
    }
    made = AdminApi(state_dir(state)).call("POST", f"/v1/plans/{path_part(plan)}/prices", body)
    if json:
        print_json(made)
        return
    _table([made], every=False)


def _step(text: str) -> dict[str, int]:
    from sextant.base.errors import BadRequest

    tokens, equals, factor = text.partition("=")
    if not equals or not tokens.replace("_", "").isdecimal():
        raise BadRequest(f"--volume {text}: expected TOKENS=FACTOR, as 100000000=0.6")
    return {"over_tokens": int(tokens), "factor_ppm": factor_ppm(factor, "--volume")}


COLUMNS = (
    "plan",
    "currency",
    "model",
    "input>",
    "cached>",
    "output>",
    "reasoning>",
    "request>",
    "since",
    "until",
)


def _table(plans: list[dict[str, Any]], *, every: bool) -> None:
    now_ms = time.time_ns() // 1_000_000
    rows: list[tuple[object, ...]] = []
    for plan in plans:
        shown = [one for one in plan["prices"] if every or not 0 < one["valid_until_ms"] <= now_ms]
        rows += [(plan["id"], plan["currency"], *_cells(price)) for price in shown]
        if not shown:
            rows.append((plan["id"], plan["currency"], "no price", *[""] * (len(COLUMNS) - 3)))
    print_table(COLUMNS, rows, "No price plans.")
    for plan in plans:
        steps = [
            f"tokens of a month over {step['over_tokens']:,} x {step['factor_ppm'] / PPM:g}"
            for step in plan["volume"]
        ]
        if plan["package_factor_ppm"] != PPM:
            steps.append(f"packages x {plan['package_factor_ppm'] / PPM:g} of their face value")
        if steps:
            out().print(f"{plan['id']}: {'; '.join(steps)}", markup=False)


def _cells(price: dict[str, Any]) -> tuple[str, ...]:
    parts = [amount(price[f"{part}_nano_per_mtok"]) for part in ("input", "cached", "output", "reasoning")]
    since = day_shown(price["valid_from_ms"]) if price["valid_from_ms"] else "ever"
    until = day_shown(price["valid_until_ms"]) if price["valid_until_ms"] else "further notice"
    return (price["model"], *parts, amount(price["request_nano"]), since, until)
