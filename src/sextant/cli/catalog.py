"""`sextant catalog`: the models and accelerators that the planner knows, each value with its source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sextant.cli.options import Json
from sextant.cli.output import out, print_json, print_table

if TYPE_CHECKING:
    from sextant.spec.architecture import ModelArchitecture
    from sextant.spec.facts import Catalog
    from sextant.spec.hardware import Accelerator

app = typer.Typer(
    help="List and show the models and accelerators that the planner knows.", no_args_is_help=True
)

Facts = Annotated[
    Path | None,
    typer.Option(
        "--facts", metavar="FILE", help="A TOML file of yours with models and accelerators to add or change."
    ),
]
Name = Annotated[str | None, typer.Argument(help="One of them, by id or another name; none: all.")]

GIB = 2**30
FACTS_BYTES = 1_000_000
"""A larger file of facts is refused."""

UNITS = (
    ("_bytes_per_s", "bytes/s"),
    ("_bytes_per_request", "bytes per request"),
    ("_bytes", "bytes"),
    ("_per_s", "operations/s"),
    ("_tokens", "tokens"),
    ("params_total", "parameters"),
    ("params_active", "parameters"),
    ("watts", "W"),
    ("usd_per_h", "USD/h"),
    ("price_usd", "USD"),
    ("checkpoints", "bytes"),
)
"""End of a field's name to its unit; others are counts."""


@app.command("models")
def models(name: Name = None, facts: Facts = None, json: Json = False) -> None:
    """List the models with their sizes, or show one with the source of each value."""
    catalog = read_catalog(facts)
    if name is not None:
        _show(catalog, catalog.model(name), json=json)
        return
    from sextant.planner.memory import cache_bytes, weights_bytes

    if json:
        print_json([_facts(catalog, model) for model in catalog.models.values()])
        return
    rows = []
    for model in catalog.models.values():
        size_bytes, measured = weights_bytes(model, model.native_precision)
        context = model.context_tokens
        per_token = cache_bytes(model, model.usual_kv_precision, context) / context
        rows.append(
            (
                model.id,
                f"{model.params_total / 1e9:.4g}",
                f"{model.params_active / 1e9:.4g}",
                model.attention,
                f"{context:,}",
                f"{per_token:,.0f}",
                model.native_precision,
                f"{size_bytes / GIB:.4g}{'' if measured else ' (computed)'}",
            )
        )
    columns = ("model", "params B>", "active B>", "attention", "context>", "KV B/token>", "native", "GiB>")
    print_table(columns, rows, "No models.")


@app.command("accelerators")
def accelerators(name: Name = None, facts: Facts = None, json: Json = False) -> None:
    """List the accelerators with their rates, or show one with the source of each value."""
    catalog = read_catalog(facts)
    if name is not None:
        _show(catalog, catalog.accelerator(name), json=json)
        return
    if json:
        print_json([_facts(catalog, accelerator) for accelerator in catalog.accelerators.values()])
        return
    rows = [
        (
            one.id,
            one.title,
            f"{one.memory_bytes / GIB:.4g}",
            f"{one.bandwidth_bytes_per_s / 1e12:.3g}",
            *(f"{rate / 1e12:.4g}" if rate else "–" for rate in (one.flops_per_s.bf16, one.flops_per_s.fp8)),
            f"{one.watts:g}",
            "–" if one.usd_per_h.on_demand is None else f"{one.usd_per_h.on_demand:.2f}",
        )
        for one in catalog.accelerators.values()
    ]
    columns = ("accelerator", "is", "GiB>", "TB/s>", "BF16 TFLOP/s>", "FP8>", "W>", "USD/h>")
    print_table(columns, rows, "No accelerators.")


def read_catalog(facts: Path | None) -> Catalog:
    """The catalogue, with a user's file on top. Raises Misconfigured naming what is wrong in it."""
    from sextant.base.errors import Misconfigured
    from sextant.spec.facts import load_catalog

    if facts is None:
        return load_catalog()
    try:
        with facts.open("rb") as opened:
            data = opened.read(FACTS_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise Misconfigured(f"{facts}: the facts file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{facts}: not UTF-8; save the facts file as UTF-8") from None
    if len(data) > FACTS_BYTES:
        raise Misconfigured(f"{facts}: over {FACTS_BYTES} bytes; a facts file is smaller")
    return load_catalog(text, str(facts))


def _show(catalog: Catalog, noun: ModelArchitecture | Accelerator, *, json: bool) -> None:
    found = _facts(catalog, noun)
    if json:
        print_json(found)
        return
    out().print(f"{found['id']}  also called: {', '.join(found['aliases']) or 'nothing else'}", markup=False)
    rows = []
    for field, fact in found["facts"].items():
        source = fact["source"]
        kind = source["kind"] if source["kind"] != "looked up" else ""
        where = " · ".join(filter(None, (source["where"], str(source["date"] or ""), kind)))
        rows.append((field, _plain(fact["value"]), fact["unit"], where))
    print_table(("field", "value>", "unit", "source"), rows, "")


def _facts(catalog: Catalog, noun: ModelArchitecture | Accelerator) -> dict[str, Any]:
    import msgspec

    from sextant.spec.facts import UNSOURCED

    fields = {
        field: {
            "value": msgspec.to_builtins(getattr(noun, field)),
            "unit": next((unit for end, unit in UNITS if field.endswith(end)), ""),
            "source": msgspec.to_builtins(catalog.source_of(noun, field)),
        }
        for field in noun.__struct_fields__
        if field not in UNSOURCED and getattr(noun, field) not in (0, None, {}, False)
    }
    named = {
        field: msgspec.to_builtins(getattr(noun, field))
        for field in noun.__struct_fields__
        if field in UNSOURCED and field != "sources"
    }
    return {**named, "facts": fields}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items() if one) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )
