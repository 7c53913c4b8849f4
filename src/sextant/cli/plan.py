"""`sextant plan`: which hardware, how fast, what cost, and how sure; from a document or from flags.

The question is made in `plan_asked.py`, decided in `planner/`, and shown by `plan_view.py` (terminal) or
`plan_html.py` (a report); `plan_measure.py` holds a prediction against a live endpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from sextant.base.errors import BadRequest
from sextant.cli.advise import language_of
from sextant.cli.options import Json
from sextant.cli.output import EXIT_FAILED, out, print_json
from sextant.cli.plan_words import word

if TYPE_CHECKING:
    from sextant.cli.plan_asked import Asked
    from sextant.planner.options import Tools
    from sextant.spec.advice import Language
    from sextant.spec.hardware_prices import Prices
    from sextant.spec.local_calibration import LocalCalibration

Number = float | None
Count = int | None
_File = Annotated[
    Path | None, typer.Argument(help="Deployment document; its workload, engine and sites are taken.")
]
_Model = Annotated[str | None, typer.Option(help="Model of the catalogue, instead of the document's.")]
_Accelerator = Annotated[
    list[str] | None, typer.Option(help="Consider this one, again for more.", show_default="all")
]
_Count = Annotated[Count, typer.Option(help="Accelerators in all, exactly.")]
_Most = Annotated[Count, typer.Option(help="Accelerators in all, at most.")]
_Engine = Annotated[
    str | None, typer.Option(help="vllm, sglang, trtllm, llamacpp, mindie or embedded.", show_default="vllm")
]
_Precision = Annotated[
    str | None,
    typer.Option(help="Of the weights: bf16, fp8, int8, fp4, int4, q8, q4, q2.", show_default="as published"),
]
_KvPrecision = Annotated[str | None, typer.Option(help="Of the KV cache: bf16 or fp8.")]
_Rate = Annotated[Number, typer.Option(help="Mean requests per second.", show_default="1")]
_Input = Annotated[Count, typer.Option(help="Tokens of a prompt.", show_default="2048")]
_Answer = Annotated[Count, typer.Option(help="Tokens of an answer.", show_default="512")]
_Hits = Annotated[
    Number, typer.Option(help="Share of the input in the prefix cache, 0 to 1.", show_default="0")
]
_Swing = Annotated[Number, typer.Option(help="Peak load over mean load.", show_default="1")]
_Ttft = Annotated[Number, typer.Option(help="Target: time to first token, 99th percentile.")]
_Tpot = Annotated[Number, typer.Option(help="Target: time per output token, 99th percentile.")]
_Total = Annotated[Number, typer.Option(help="Target: the whole answer.")]
_Power = Annotated[Number, typer.Option(help="Price of power.", show_default="0.12, an estimate")]
_Pue = Annotated[Number, typer.Option(help="PUE of the hall.", show_default="1.54, the world's average")]
_Co2 = Annotated[Number, typer.Option(help="Of the grid.", show_default="481, the world's average")]
_Space = Annotated[Number, typer.Option(help="Rent of the space; not counted when not said.")]
_Staff = Annotated[Number, typer.Option(help="People; not counted when not said.")]
_PerHour = Annotated[Number, typer.Option(help="Rent of one accelerator, instead of the catalogue's.")]
_Price = Annotated[Number, typer.Option(help="Price of one accelerator, instead of the catalogue's.")]
_Budget = Annotated[Number, typer.Option(help="Most that may be spent in a month.")]
_Facts = Annotated[Path | None, typer.Option(help="TOML with models and accelerators of your own.")]
_Prices = Annotated[Path | None, typer.Option(help="TOML with prices of your own.")]
_Explain = Annotated[bool, typer.Option("--explain", help="Show each number's formula and source.")]
_Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with charts.")]
_Lang = Annotated[str | None, typer.Option(help="en or zh.", show_default="by LANG")]
_Measure = Annotated[
    str | None, typer.Option(metavar="URL", help="Put a short load on this endpoint and compare.")
]
_Calibrate = Annotated[
    str | None, typer.Option(metavar="URL", help="Measure this endpoint for a minute; needs -o.")
]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where the calibration is written.")
]
_Calibration = Annotated[
    Path | None, typer.Option(metavar="FILE", help="What --calibrate wrote, to predict that machine by.")
]


def plan(  # the flags are the question
    file: _File = None, model: _Model = None, accelerator: _Accelerator = None, count: _Count = None,
    most: _Most = None, engine: _Engine = None, precision: _Precision = None,
    kv_precision: _KvPrecision = None, requests_per_s: _Rate = None,
    input_tokens: _Input = None, output_tokens: _Answer = None,
    prefix_hit_share: _Hits = None, swing: _Swing = None, ttft_ms_p99: _Ttft = None,
    tpot_ms_p99: _Tpot = None, end_to_end_ms: _Total = None, power_usd_per_kwh: _Power = None,
    pue: _Pue = None, co2_g_per_kwh: _Co2 = None, space_usd_per_month: _Space = None,
    staff_usd_per_month: _Staff = None, usd_per_h: _PerHour = None, price_usd: _Price = None,
    most_usd_per_month: _Budget = None, facts: _Facts = None, prices: _Prices = None,
    explain: _Explain = False, html: _Html = None, lang: _Lang = None, measure: _Measure = None,
    calibrate: _Calibrate = None, output: _Output = None, calibration: _Calibration = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Plan hardware for a model: what fits, how fast, what it costs, and how sure that is.

    With --calibrate it measures instead, and writes what --calibration reads.

    Exit status: 0 there is a way, 1 nothing meets the question (the closest ways are shown).
    """
    from sextant.cli.plan_asked import Files, Flags, asked_of

    language = language_of(lang)
    flags = Flags(
        file=file, model=model, engine=engine, precision=precision, kv_precision=kv_precision,
        accelerators=tuple(accelerator or ()),
        workload={
            "requests_per_s": requests_per_s, "input_tokens": input_tokens, "output_tokens": output_tokens,
            "prefix_hit_share": prefix_hit_share, "swing": swing,
        },
        targets={"ttft_ms_p99": ttft_ms_p99, "tpot_ms_p99": tpot_ms_p99, "end_to_end_ms": end_to_end_ms},
        wishes={"count": count, "most": most},
        costs={
            "power_usd_per_kwh": power_usd_per_kwh, "pue": pue, "co2_g_per_kwh": co2_g_per_kwh,
            "space_usd_per_month": space_usd_per_month, "staff_usd_per_month": staff_usd_per_month,
            "usd_per_h": usd_per_h, "price_usd": price_usd, "most_usd_per_month": most_usd_per_month,
        },
    )  # fmt: skip
    ways = Ways(
        json=json, explain=explain, html=html, measure=measure, calibrate=calibrate, output=output,
        language=language,
    )  # fmt: skip
    for written in (html, output):
        _check_writable(written)
    asked = asked_of(flags, Files(facts=facts, prices=prices, calibration=calibration))
    if calibrate is not None or output is not None:
        _calibrate(asked, ways)
    else:
        _show(asked, ways)


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """What is done with the question, and how the answer is shown."""

    json: bool
    explain: bool
    html: Path | None
    measure: str | None
    calibrate: str | None
    output: Path | None
    language: Language


def tools_of(prices: Prices, machine: LocalCalibration | None = None) -> Tools:
    """What predicts and what rates; `machine` speaks for the endpoint that it was measured at."""
    from sextant.planner.cost import cost_of
    from sextant.planner.local_speed import local_predictor
    from sextant.planner.options import Tools
    from sextant.planner.roofline import predictor
    from sextant.spec.calibration import load_calibration

    predict = predictor(load_calibration())
    if machine is not None:
        predict = local_predictor(machine, predict)
    return Tools(predict=predict, cost=cost_of(prices))


def _calibrate(asked: Asked, ways: Ways) -> None:
    import asyncio

    from sextant.cli import plan_measure
    from sextant.operations.measure_calibration import calibrate
    from sextant.spec.local_calibration import calibration_text

    if ways.calibrate is None or ways.output is None:
        raise BadRequest(
            "--calibrate and -o go together: `sextant plan --model NAME --accelerator NAME --calibrate URL "
            "-o FILE`"
        )
    considered = [one.id for one in asked.question.accelerators]
    if len(considered) > 1:
        raise BadRequest(
            f"{len(considered)} accelerators are considered; say which one stands for that machine, as "
            f"`--accelerator cpu-desktop`; `sextant catalog accelerators` lists them"
        )
    machine = asyncio.run(calibrate(ways.calibrate, asked.question))
    _write(ways.output, calibration_text(machine))
    if ways.json:
        print_json(machine)
        return
    plan_measure.show_machine(machine, ways.language)
    out().print(f"{word('Calibration written to', ways.language)} {ways.output}", markup=False)


def _check_writable(file: Path | None) -> None:
    """Said before the work is done, not after a minute of it."""
    if file is None:
        return
    if file.is_dir():
        raise BadRequest(f"{file}: is a folder; name a file in it")
    if not file.absolute().parent.is_dir():
        raise BadRequest(f"{file}: there is no folder {file.parent}; make it, or name another file")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"{file}: cannot be written: {error.strerror}; name another file") from None


def _show(asked: Asked, ways: Ways) -> None:
    from sextant.cli.plan_answer import answer

    tools = tools_of(asked.prices, asked.machine)
    answered = answer(asked.question, catalog=asked.catalog, prices=asked.prices, tools=tools)
    warnings = (*asked.notes, *answered.plan.warnings)
    answered = msgspec.structs.replace(
        answered, plan=msgspec.structs.replace(answered.plan, warnings=warnings)
    )
    compared = None
    if ways.measure is not None:
        from sextant.cli import plan_measure

        compared = plan_measure.compare(answered, tools, ways.measure)
    if ways.html is not None:
        from sextant.cli import plan_html

        _write(ways.html, plan_html.page(answered, ways.language))
    if ways.json:
        print_json({"plan": answered.plan, "shown": answered.shown, "measured": compared})
    else:
        from sextant.cli import plan_view

        plan_view.show(answered, ways.language, explain=ways.explain)
        if compared is not None:
            plan_measure.show(compared, ways.language)
        if ways.html is not None:
            out().print(f"\n{word('Report written to', ways.language)} {ways.html}", markup=False)
    if not answered.plan.options:
        raise typer.Exit(EXIT_FAILED)
