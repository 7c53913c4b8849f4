"""`sextant import`: moving over from LiteLLM, One API or New API: shows what it would make, then makes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import out, print_json, print_table, short_path
from sextant.cli.values import amount, limits_shown

if TYPE_CHECKING:
    from sextant.operations.importing.plan import ImportPlan, PlannedKey, PlannedProject, PlannedTenant

Section = tuple[str, tuple[str, ...], list[Any]]
"""Title, columns and rows of a part of the plan."""

app = typer.Typer(
    help="Move over from another gateway: show what would be made here, then make it.", no_args_is_help=True
)

Document = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the models there, as a document for `sextant up FILE`."
    ),
]
Secrets = Annotated[
    Path | None,
    typer.Option(
        "--secrets",
        metavar="DIR",
        help="Write endpoints' keys that the source holds there, a file of mode "
        "0600 each, which the document names; without it, the document names variables.",
    ),
]
Apply = Annotated[
    bool,
    typer.Option("--apply", help="Make the tenants, keys, prices and balances in the running deployment."),
]


@app.command()
def litellm(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="LiteLLM's config.yaml.")],
    database: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A dump of its database for teams, users and keys: by pg_dump, or JSON by table.",
        ),
    ] = None,
    email: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Whom to tell of its soft budgets, again for more."),
    ] = None,
    output: Document = None,
    secrets: Secrets = None,
    apply: Apply = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Move over from a LiteLLM proxy: models, prices, teams, keys, budgets, limits."""
    from sextant.operations.importing.litellm import read_litellm
    from sextant.operations.importing.litellm_accounts import OTHER_TABLES, TABLES
    from sextant.operations.importing.tables import read_tables

    wanted = frozenset([*TABLES.values(), *OTHER_TABLES])
    rows = None if database is None else read_tables(database, wanted)
    plan = read_litellm(config, rows, tuple(email or ()))
    _run(plan, (output, secrets), apply=apply, state=state, json=json)


@app.command("one-api")
def one_api(
    database: Annotated[
        Path, typer.Argument(metavar="FILE", help="one-api.db, or a dump by mysqldump or pg_dump.")
    ],
    output: Document = None,
    secrets: Secrets = None,
    apply: Apply = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Move over from One API or New API: channels, users, their balances, tokens, ratios."""
    from sextant.operations.importing.one_api import read_one_api

    _run(read_one_api(database), (output, secrets), apply=apply, state=state, json=json)


def _run(
    plan: ImportPlan, files: tuple[Path | None, Path | None], *, apply: bool, state: Path | None, json: bool
) -> None:
    document = plan.document
    output, folder = files
    if folder is not None:
        document = _keep_secrets(plan, folder)
    if output is not None and document is not None:
        _write_document(document, output, plan.source)
    applied = None
    if apply:
        from sextant.cli.admin import AdminApi
        from sextant.operations.importing.apply import apply_plan

        applied = apply_plan(plan, AdminApi(state_dir(state)))
    if json:
        made = None if applied is None else {"made": applied.made, "kept": applied.kept}
        print_json({**plan.told(), "document": document, "applied": made})
        return
    _shown(plan, kept_in=folder)
    console = out()
    if output is not None and document is not None:
        console.print(
            f"\nWrote {short_path(output.absolute())}; serve it with `sextant up {output}`.", markup=False
        )
    if applied is not None:
        console.print(f"\nMade {len(applied.made)}, found {len(applied.kept)} as they were.", markup=False)
        for line in applied.made:
            console.print(f"  {line}", markup=False)
    else:
        console.print(
            "\nNothing was changed; --apply makes the tenants, keys, prices and balances.", markup=False
        )


def _keep_secrets(plan: ImportPlan, folder: Path) -> dict[str, Any] | None:
    """Writes each secret into a file of its own; the document that names the files."""
    import json

    text = json.dumps(plan.document)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for secret in plan.secrets:
        file = folder.absolute() / secret.reference.removeprefix("env:").lower()
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            os.fchmod(opened.fileno(), 0o600)
            opened.write(secret.value + "\n")
        text = text.replace(json.dumps(secret.reference), json.dumps(f"file:{file}"))
    found: dict[str, Any] | None = json.loads(text)
    return found


def _write_document(document: dict[str, Any], output: Path, source: str) -> None:
    import yaml

    from sextant.base.errors import BadRequest

    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(f"# Made by `sextant import` of {source}.\n{text}")
    except FileExistsError:
        raise BadRequest(f"{output} is there already; name another file, or move it away") from None


def _shown(plan: ImportPlan, *, kept_in: Path | None) -> None:
    console = out()
    console.print(f"From {plan.source}:", markup=False)
    for title, columns, rows in (
        _models(plan),
        _tenants(plan),
        _projects(plan),
        _keys(plan),
        _prices(plan),
        ("budgets", ("of", "a month>"), [(one.scope, amount(one.amount_nano)) for one in plan.budgets]),
        ("not as it was", ("", "where", "what"), [(one.kind, one.where, one.said) for one in plan.notes]),
    ):
        if rows:
            console.print(f"\n{title}: {len(rows)}", style="bold", markup=False)
            print_table(columns, rows, "")
    if plan.secrets and kept_in is None:
        said = f"\nkeys in the source: {len(plan.secrets)}; set these variables, or use --secrets DIR"
        console.print(said, style="bold", markup=False)
        rows = [(secret.reference.removeprefix("env:"), secret.where) for secret in plan.secrets]
        print_table(("variable", "its value stands in"), rows, "")


def _models(plan: ImportPlan) -> Section:
    models = plan.document["spec"]["models"] if plan.document else []
    rows = [
        (one["name"], ", ".join(one.get("aliases", ())) or "none", one["engine"]["base_url"])
        for one in models
    ]
    return "models", ("model", "other names", "endpoint"), rows


def _tenants(plan: ImportPlan) -> Section:
    rows = [
        (
            one.id,
            one.name,
            one.billing,
            one.plan or "none",
            amount(one.top_up_nano, one.currency),
            _limits(one),
        )
        for one in plan.tenants
    ]
    return "tenants", ("tenant", "name", "billing", "plan", "brings along>", "limits"), rows


def _projects(plan: ImportPlan) -> Section:
    rows = [(one.id, one.tenant_id, _limits(one)) for one in plan.projects]
    return "projects", ("project", "tenant", "limits"), rows


def _keys(plan: ImportPlan) -> Section:
    rows = [
        (one.hint, one.tenant_id, one.name, ", ".join(one.models) or "all", _limits(one)) for one in plan.keys
    ]
    return "keys", ("key", "tenant", "name", "models", "limits"), rows


def _prices(plan: ImportPlan) -> Section:
    rows = [
        (
            made.id,
            price.model,
            amount(price.input_nano_per_mtok, made.currency),
            amount(price.output_nano_per_mtok, made.currency),
        )
        for made in plan.plans
        for price in made.prices
    ]
    return "prices, a million tokens", ("plan", "model", "input>", "output>"), rows


def _limits(planned: PlannedTenant | PlannedProject | PlannedKey) -> str:
    import msgspec

    return limits_shown(dict(msgspec.to_builtins(planned.limits)))
