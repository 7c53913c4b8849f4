"""`sextant tier`: what kinds of tenant there are: kinds of request, engines, limits, availability."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sextant.cli.options import Json, Limits, State, state_dir
from sextant.cli.output import print_json, print_table
from sextant.cli.values import PPM, factor_ppm, limits_of, limits_shown, path_part

app = typer.Typer(help="List and change tiers.", no_args_is_help=True)

PERCENT = 100
KINDS = ("text", "image", "audio", "embeddings", "rerank")


@app.command("list")
def list_tiers(state: State = None, json: Json = False) -> None:
    """List tiers and what they allow."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).call("GET", "/v1/tiers")["tiers"]
    if json:
        print_json(found)
        return
    _table(found)


@app.command("set")
def change(
    tier_id: Annotated[str, typer.Argument(metavar="TIER", help="Its id; a new one makes a tier.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help="A kind of request allowed, again for more: text, image, audio, embeddings, rerank.",
        ),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Engine pool that serves it; `shared` for the shared one.")
    ] = None,
    weight: Annotated[
        int | None, typer.Option(help="Share of a saturated engine, against other tiers.")
    ] = None,
    sla: Annotated[
        str | None, typer.Option(help="Availability promised a month, in percent; 0: none.")
    ] = None,
    own_models: Annotated[
        bool | None,
        typer.Option("--own-models/--no-own-models", help="Whether tenants may have models of their own."),
    ] = None,
    limit: Limits = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Make a tier, or change it; what is not named stays."""
    from sextant.base.errors import BadRequest, NotFound
    from sextant.cli.admin import AdminApi

    wrong = [one for one in kind or () if one not in KINDS]
    if wrong:
        raise BadRequest(f"--kind {wrong[0]}: expected some of {', '.join(KINDS)}")
    api = AdminApi(state_dir(state))
    target = f"/v1/tiers/{path_part(tier_id)}"
    try:
        policy: dict[str, Any] = api.call("GET", target)
    except NotFound:
        policy = {"id": tier_id, "limits": {}}
    given = {
        "kinds": kind or None,
        "pool": "" if pool == "shared" else pool,
        "weight": weight,
        "sla_ppm": None if sla is None else factor_ppm(sla, "--sla") // PERCENT,
        "own_models": own_models,
        "limits": limits_of(limit, policy["limits"]) if limit else None,
    }
    policy |= {name: value for name, value in given.items() if value is not None}
    made = api.call("PUT", target, policy)
    if json:
        print_json(made)
        return
    _table([made])


def _table(tiers: list[dict[str, Any]]) -> None:
    rows = [
        (
            one["id"],
            ", ".join(one["kinds"]),
            one["pool"] or "shared",
            "yes" if one["own_models"] else "no",
            one["weight"],
            f"{one['sla_ppm'] * PERCENT / PPM:g} %" if one["sla_ppm"] else "none",
            limits_shown(one["limits"]),
        )
        for one in tiers
    ]
    print_table(
        ("tier", "kinds", "engines", "own models", "weight>", "availability", "limits"), rows, "No tiers."
    )
