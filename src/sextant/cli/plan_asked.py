"""The question of `sextant plan`: from a deployment document, from flags, or both (flags win)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from sextant.base.errors import BadRequest, Misconfigured

if TYPE_CHECKING:
    from sextant.spec.architecture import ModelArchitecture
    from sextant.spec.document import Accelerators, Deployment
    from sextant.spec.facts import Catalog
    from sextant.spec.hardware import Accelerator
    from sextant.spec.hardware_prices import Prices
    from sextant.spec.local_calibration import LocalCalibration
    from sextant.spec.planning import Question, Workload

ENGINES = {"triton": "trtllm", "nim": "trtllm"}
"""What the planner takes for an engine of the document that it has no factors of its own for."""
UNPLANNED = "remote"
LLAMA = ("llamacpp", "embedded")
"""Engines that keep weights in GGUF's kinds."""
GIB = 2**30
FILE_BYTES = 1024 * 1024


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said; None: nothing."""

    file: Path | None = None
    model: str | None = None
    engine: str | None = None
    precision: str | None = None
    kv_precision: str | None = None
    accelerators: tuple[str, ...] = ()
    workload: dict[str, float | int | None] = {}
    targets: dict[str, float | None] = {}
    wishes: dict[str, Any] = {}
    costs: dict[str, float | None] = {}


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Files of the user's own; None: none, or the document's."""

    facts: Path | None = None
    prices: Path | None = None
    calibration: Path | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The question with all that it is answered from."""

    question: Question
    catalog: Catalog
    prices: Prices
    machine: LocalCalibration | None
    notes: tuple[str, ...] = ()
    """What of the document the plan leaves out."""


def asked_of(flags: Flags, files: Files) -> Asked:
    """The question, with the files that flags or the document name. Raises NotFound for unknown names, with
    the nearest; Misconfigured for a file that is wrong; BadRequest for what cannot be."""
    from sextant.spec.facts import load_catalog
    from sextant.spec.hardware_prices import load_prices
    from sextant.spec.local_calibration import read_calibration

    document = None if flags.file is None else _document(flags.file)
    if document is not None:
        files = _named(files, document)
    catalog = load_catalog(*read_text(files.facts))
    prices = load_prices(*read_text(files.prices))
    text, name = read_text(files.calibration)
    machine = read_calibration(text, name) if name else None
    if machine is not None and not flags.accelerators and not _stated(document):
        flags = msgspec.structs.replace(flags, accelerators=(machine.accelerator,))
    question = _question(flags, document, catalog)
    if machine is not None:
        _check_machine(machine, question, name)
    notes = tuple(_left_out(flags, document, question))
    return Asked(question=question, catalog=catalog, prices=prices, machine=machine, notes=notes)


def _document(file: Path) -> Deployment:
    """Imported only for a document: its models take as long as a plan does."""
    from sextant.spec.document import load_document

    return load_document(file)


def _named(files: Files, document: Deployment) -> Files:
    """With the files that the document names where no flag names one."""
    said = document.spec.planning
    return Files(
        facts=files.facts or _path(said.facts_file),
        prices=files.prices or _path(said.prices_file),
        calibration=files.calibration or _path(said.calibration_file),
    )


def _left_out(flags: Flags, document: Deployment | None, question: Question) -> Iterator[str]:
    """What the document says and a plan of one model on one sort of accelerator does not take."""
    if document is None:
        return
    if flags.model is None and len(document.spec.served) > 1:
        yield (
            f"{question.architecture.id} is planned, the first of {len(document.spec.served)} models; "
            f"--model plans another"
        )
    if not flags.accelerators and _stated(document) and len(question.accelerators) > 1:
        sorts = ", ".join(one.id for one in question.accelerators)
        yield (
            f"the sites have {sorts}: each is planned alone, and how many stand there is not taken; "
            f"--accelerator and --count plan one of them"
        )


def _check_machine(machine: LocalCalibration, question: Question, name: str) -> None:
    asked = (question.architecture.id, question.precision)
    if asked != (machine.model, machine.precision):
        raise BadRequest(
            f"{name} was measured with {machine.model} in {machine.precision}; the plan asks for "
            f"{asked[0]} in {asked[1]}; ask for that model, or calibrate anew with --calibrate"
        )
    if machine.accelerator not in [one.id for one in question.accelerators]:
        raise BadRequest(
            f"{name} was measured with {machine.accelerator}, which is not considered; add "
            f"`--accelerator {machine.accelerator}`"
        )


def _question(flags: Flags, document: Deployment | None, catalog: Catalog) -> Question:
    from sextant.spec.architecture import KvPrecision, Precision
    from sextant.spec.planning import Engine, Question

    engine = flags.engine or _engine(document)
    model = _model(flags, document, catalog)
    accelerators, count = _accelerators(flags, document, catalog)
    said = _planning(document)
    wishes = {**_given({"most": said.get("most_accelerators")}), **_given(flags.wishes)}
    if said.get("split"):
        wishes["split"] = True
    if count is not None and not _given(flags.wishes):
        wishes["count"] = count
    precision = flags.precision or said.get("precision")
    for name, value, kinds in (
        ("engine", engine, Engine), ("precision", precision, Precision),
        ("kv_precision", flags.kv_precision, KvPrecision),
    ):  # fmt: skip
        _known(name, value, get_args(kinds))
    if precision is None:
        gguf = engine in LLAMA and model.native_precision in ("fp8", "bf16")
        precision = "q8" if gguf else model.native_precision
    asked = {
        "architecture": model,
        "precision": precision,
        "kv_precision": flags.kv_precision or said.get("kv_precision") or model.usual_kv_precision,
        "engine": engine,
        "accelerators": accelerators,
        "workload": {**_workload(document), **_given(flags.workload)},
        "targets": {**_targets(document), **_given(flags.targets)},
        "wishes": wishes,
        "costs": {**_site_price(document, count), **_given(said.get("costs", {})), **_given(flags.costs)},
        "host": _host(said.get("server", {})),
    }
    try:
        return msgspec.convert(msgspec.to_builtins(asked), Question)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the plan cannot be asked for so: {error}") from None


def _known(name: str, value: str | None, kinds: tuple[str, ...]) -> None:
    from sextant.spec.facts import nearest

    if value is not None and value not in kinds:
        near = nearest(value, kinds)
        raise BadRequest(
            f"{name} `{value}` is not known{near and '; nearest: '}{near}; expected {', '.join(kinds)}"
        )


def _planning(document: Deployment | None) -> dict[str, Any]:
    return {} if document is None else document.spec.planning.model_dump()


def _host(server: dict[str, Any]) -> dict[str, Any]:
    """The document's server in bytes."""
    scales = {
        "memory_gib": ("memory_bytes", GIB),
        "storage_gib": ("storage_bytes", GIB),
        "storage_gib_per_s": ("storage_bytes_per_s", GIB),
        "network_gbit_per_s": ("network_bytes_per_s", 1e9 / 8),
        "cpu_sockets": ("cpu_sockets", 1),
    }
    found: dict[str, Any] = {}
    for name, value in _given(server).items():
        field, scale = scales[name]
        found[field] = value * scale if field.endswith("_per_s") else round(value * scale)
    return found


def _site_price(document: Deployment | None, count: int | None) -> dict[str, float]:
    """The rent of one accelerator, where every site says what all of it costs and has the same sort."""
    prices = [site.price_usd_per_h for site in document.spec.sites] if document else []
    if not count or not prices:
        return {}
    stated = [price for price in prices if price is not None]
    return {"usd_per_h": sum(stated) / count} if len(stated) == len(prices) else {}


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def read_text(file: Path | None) -> tuple[str, str]:
    """(text, name) of a facts or prices file; empty without one. Raises Misconfigured."""
    if file is None:
        return "", ""
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(FILE_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{file}: is not UTF-8 text; expected TOML") from None
    if len(text) > FILE_BYTES:
        raise Misconfigured(f"{file}: is larger than {FILE_BYTES} characters; expected a short TOML file")
    return text, str(file)


def _model(flags: Flags, document: Deployment | None, catalog: Catalog) -> ModelArchitecture:
    if flags.model is not None:
        return catalog.model(flags.model)
    if document is None:
        raise BadRequest("nothing to plan; name a document or a model: `sextant plan --model deepseek-r1`")
    served = document.spec.served[0]
    return catalog.served(served.name, served.aliases, served.source)


def _accelerators(
    flags: Flags, document: Deployment | None, catalog: Catalog
) -> tuple[tuple[Accelerator, ...], int | None]:
    """Those to consider, and their number where one site has one sort of them."""
    if flags.accelerators:
        found = {catalog.accelerator(name).id: catalog.accelerator(name) for name in flags.accelerators}
        return tuple(found.values()), None
    stated = _stated(document)
    if stated:
        here = {catalog.accelerator(each.name).id: catalog.accelerator(each.name) for each in stated}
        return tuple(here.values()), sum(each.count for each in stated) if len(here) == 1 else None
    return tuple(catalog.accelerators.values()), None


def _stated(document: Deployment | None) -> list[Accelerators]:
    return [each for site in document.spec.sites for each in site.accelerators] if document else []


def _engine(document: Deployment | None) -> str:
    if document is None:
        return "vllm"
    kind = document.spec.served[0].engine.kind
    if kind == UNPLANNED:
        raise BadRequest(
            "spec.engine.kind is `remote`: somebody else runs that hardware; say what to plan for running it "
            "yourself: `--model deepseek-v4-flash --engine vllm`"
        )
    return ENGINES.get(kind, kind)


def _workload(document: Deployment | None) -> dict[str, Any]:
    if document is None:
        return {}
    load, said = document.spec.workload, document.spec.planning
    found = {name: getattr(load, name) for name in ("requests_per_s", "input_tokens", "output_tokens")}
    return _given({**found, "prefix_hit_share": said.prefix_hit_share, "swing": said.swing})


def _targets(document: Deployment | None) -> dict[str, Any]:
    if document is None:
        return {}
    load = document.spec.workload
    found = {name: getattr(load, name) for name in ("ttft_ms_p99", "tpot_ms_p99")}
    return _given({**found, "end_to_end_ms": document.spec.planning.end_to_end_ms})


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def described(load: Workload) -> str:
    """The load in one line."""
    swing = f", peaks of {load.swing:g} times" if load.swing > 1 else ""
    hits = f", {load.prefix_hit_share:.0%} of it in the prefix cache" if load.prefix_hit_share else ""
    tokens = f"{load.input_tokens} tokens in{hits}, {load.output_tokens} out"
    return f"{load.requests_per_s:g} requests/s{swing}, {tokens}"
