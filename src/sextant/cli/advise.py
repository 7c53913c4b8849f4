"""`sextant advise`: which of the six modes fits, why, why not the others, and the document to start from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sextant.cli.options import Json
from sextant.cli.output import out, print_json, print_table, short_path

if TYPE_CHECKING:
    from sextant.spec.advice import Advice, Language, Requirements

REQUIREMENTS_BYTES = 64 * 1024
"""The most a file of requirements may hold."""
LOCALES = ("LC_ALL", "LC_MESSAGES", "LANG")
"""Where the language is looked for, the first that is set."""


def advise(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Requirements as YAML, `name: value`; flags win over it."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="finance, healthcare, manufacturing, government, logistics."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="Sensitivity: public, internal, confidential, restricted."),
    ] = None,
    stays: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Data stays: anywhere, country, network (your own), site."),
    ] = None,
    regulation: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="pipl, gdpr, hipaa, pci-dss or mlps-3; again for more."),
    ] = None,
    upfront_usd: Annotated[str | None, typer.Option(metavar="USD", help="Budget up-front.")] = None,
    monthly_usd: Annotated[str | None, typer.Option(metavar="USD", help="Budget a month.")] = None,
    latency_ms: Annotated[
        str | None, typer.Option(metavar="MS", help="Longest wait for a whole answer.")
    ] = None,
    requests_per_s: Annotated[str | None, typer.Option(metavar="N", help="Arriving requests, mean.")] = None,
    input_tokens: Annotated[str | None, typer.Option(metavar="N", help="Tokens of a prompt.")] = None,
    output_tokens: Annotated[str | None, typer.Option(metavar="N", help="Tokens of an answer.")] = None,
    swing: Annotated[
        str | None, typer.Option(metavar="X", help="Load of the busiest hour over the mean; 1 is steady.")
    ] = None,
    network: Annotated[str | None, typer.Option(metavar="KIND", help="none, intermittent, stable.")] = None,
    team: Annotated[str | None, typer.Option(metavar="SKILL", help="novice, capable, expert.")] = None,
    releases: Annotated[
        str | None,
        typer.Option(metavar="PACE", help="yearly, quarterly, monthly, weekly, daily."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the document to start from there."),
    ] = None,
    lang: Annotated[
        str | None, typer.Option(metavar="LANG", help="en or zh.", show_default="by $LANG")
    ] = None,
    json: Json = False,
) -> None:
    """Advise a deployment mode: on-prem, private-cloud, hybrid, edge, container or saas.

    Without requirements, on a terminal, it asks a few questions.
    """
    flags = {
        "profile": profile,
        "data": data,
        "stays": stays,
        "regulation": tuple(regulation or ()),
        "upfront_usd": upfront_usd,
        "monthly_usd": monthly_usd,
        "latency_ms": latency_ms,
        "requests_per_s": requests_per_s,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "swing": swing,
        "network": network,
        "team": team,
        "releases": releases,
    }
    language = language_of(lang)
    _advise(_asked(file, flags, language), language, output=output, json=json)


def language_of(named: str | None) -> Language:
    """`en` or `zh`: as named, else by the locale. Raises BadRequest for a language that there is not."""
    from sextant.base.config import variable
    from sextant.base.errors import BadRequest

    if named is not None and named not in ("en", "zh"):
        raise BadRequest(f"--lang {named}: expected en or zh", field="lang")
    locale = named or next((found for name in LOCALES if (found := variable(name))), "")
    return "zh" if locale.lower().startswith("zh") else "en"


def _asked(file: Path | None, flags: dict[str, Any], language: Language) -> Requirements:
    from sextant.base.errors import BadRequest
    from sextant.spec.advice import read_requirements

    stated = {name: value for name, value in flags.items() if value not in (None, ())}
    written = {} if file is None else _read_file(file)
    if file is not None:
        read_requirements(written, name=str(file))
    elif not stated:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise BadRequest(
                "no requirements: name some, as `sextant advise --data confidential --swing 3`, or a file of "
                "them; questions are asked on a terminal only; `sextant advise --help` lists them"
            )
        from sextant.cli.advise_dialogue import ask

        stated = ask(language)
    return read_requirements({**written, **stated})


def _read_file(file: Path) -> dict[str, Any]:
    from sextant.base.errors import BadRequest
    from sextant.spec import problems, reading

    try:
        with file.open("rb") as opened:
            text = opened.read(REQUIREMENTS_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise BadRequest(f"{file}: cannot be read: {error.strerror}; name a file of requirements") from None
    except UnicodeDecodeError:
        raise BadRequest(f"{file}: is not UTF-8; save the file as UTF-8") from None
    if len(text) > REQUIREMENTS_BYTES:
        raise BadRequest(f"{file}: holds more than {REQUIREMENTS_BYTES} bytes; requirements are a few lines")
    tree, faults = reading.read_tree(text)
    if faults or tree is None:
        raise BadRequest(problems.render(faults, str(file), text))
    if not isinstance(tree.value, dict):
        raise BadRequest(f"{file}: expected requirements as `name: value`, one a line")
    return {str(name).replace("-", "_"): value for name, value in tree.value.items()}


def _advise(asked: Requirements, language: Language, *, output: Path | None, json: bool) -> None:
    from sextant.planner.advise import advise as advised
    from sextant.spec.advice_data import catalogue, modes_data

    advice = advised(asked, modes_data())
    words = catalogue(language)
    if output is not None:
        _write_document(advice, language, output)
    if json:
        print_json(_told(advice, language, output))
        return
    _show(advice, language)
    if output is not None:
        out().print(f"\n{words['wrote'].format(file=short_path(output.absolute()))}", markup=False)


def _show(advice: Advice, language: Language) -> None:
    from sextant.planner.advice_text import ranking_table, sections
    from sextant.spec.advice_data import catalogue

    words = catalogue(language)
    console = out()
    title = words["title.advised"].format(mode=words[f"mode.{advice.first}"])
    console.print(title, style="bold", markup=False)
    console.print()
    columns, rows = ranking_table(advice, words)
    print_table(columns, rows, "")
    for section in sections(advice, words):
        console.print(f"\n{section.title}", style="bold", markup=False)
        for line in section.lines:
            console.print(f"  {line}", markup=False)


def _told(advice: Advice, language: Language, output: Path | None) -> dict[str, Any]:
    """The advice for programs: what was decided, and the same in words."""
    import msgspec

    from sextant.planner.advice_text import sections
    from sextant.spec.advice_data import catalogue

    told: dict[str, Any] = msgspec.to_builtins(advice)
    said = sections(advice, catalogue(language))
    return {
        "advised": advice.first,
        **told,
        "language": language,
        "text": {section.title: section.lines for section in said},
        "document": None if output is None else str(output),
    }


def _write_document(advice: Advice, language: Language, output: Path) -> None:
    from sextant.base.errors import BadRequest
    from sextant.planner.start_document import start_document
    from sextant.spec.advice_data import catalogue
    from sextant.spec.document import parse_document

    text = start_document(advice, catalogue(language))
    parse_document(text, name=str(output))
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BadRequest(f"{output} is there already; name another file, or move it away") from None
    except OSError as error:
        raise BadRequest(f"{output}: cannot be written: {error.strerror}; name another file") from None
