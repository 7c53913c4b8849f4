"""The question of `sextant plan`: from a deployment document, from flags, or both (flags win)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sextant.base.errors import BadRequest, Misconfigured, NotFound

if TYPE_CHECKING:
    from sextant.spec.architecture import ModelArchitecture
    from sextant.spec.document import Deployment
    from sextant.spec.facts import Catalog
    from sextant.spec.hardware import Accelerator
    from sextant.spec.planning import Question, Workload

ENGINES = {"triton": "trtllm", "nim": "trtllm"}
"""What the planner takes for an engine of the document that it has no factors of its own for."""
UNPLANNED = "remote"
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


def question_of(flags: Flags, catalog: Catalog) -> Question:
    """The question. Raises NotFound for unknown names, with the nearest; BadRequest for what cannot be."""
    from sextant.spec.document import load_document
    from sextant.spec.planning import Question

    document = None if flags.file is None else load_document(flags.file)
    model = _model(flags, document, catalog)
    accelerators, count = _accelerators(flags, document, catalog)
    wishes = _given(flags.wishes)
    if count is not None and not wishes:
        wishes["count"] = count
    asked = {
        "architecture": model,
        "precision": flags.precision or model.native_precision,
        "kv_precision": flags.kv_precision or ("fp8" if model.attention == "v4" else "bf16"),
        "engine": flags.engine or _engine(document),
        "accelerators": accelerators,
        "workload": {**_workload(document), **_given(flags.workload)},
        "targets": {**_targets(document), **_given(flags.targets)},
        "wishes": wishes,
        "costs": _given(flags.costs),
    }
    try:
        question = msgspec.convert(msgspec.to_builtins(asked), Question)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the plan cannot be asked for so: {error}") from None
    if question.engine == "llamacpp" and flags.precision is None and question.precision in ("fp8", "bf16"):
        return msgspec.structs.replace(question, precision="q8")
    return question


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
    source = (served.source or "").rpartition(":")[2].partition("@")[0].rpartition("/")[2]
    for name in (served.name, *served.aliases, source):
        try:
            return catalog.model(name)
        except NotFound:
            continue
    return catalog.model(source or served.name)


def _accelerators(
    flags: Flags, document: Deployment | None, catalog: Catalog
) -> tuple[tuple[Accelerator, ...], int | None]:
    """Those to consider, and their number where one site has one sort of them."""
    if flags.accelerators:
        found = {catalog.accelerator(name).id: catalog.accelerator(name) for name in flags.accelerators}
        return tuple(found.values()), None
    stated = [each for site in document.spec.sites for each in site.accelerators] if document else []
    if stated:
        here = {catalog.accelerator(each.name).id: catalog.accelerator(each.name) for each in stated}
        return tuple(here.values()), sum(each.count for each in stated) if len(here) == 1 else None
    return tuple(catalog.accelerators.values()), None


def _engine(document: Deployment | None) -> str:
    if document is None:
        return "vllm"
    kind = document.spec.served[0].engine.kind
    if kind == UNPLANNED:
        raise BadRequest(
            "spec.engine.kind is `remote`: somebody else runs that hardware; say `--engine vllm` to plan for "
            "running it yourself"
        )
    return ENGINES.get(kind, kind)


def _workload(document: Deployment | None) -> dict[str, Any]:
    if document is None:
        return {}
    load = document.spec.workload
    return _given({name: getattr(load, name) for name in ("requests_per_s", "input_tokens", "output_tokens")})


def _targets(document: Deployment | None) -> dict[str, Any]:
    if document is None:
        return {}
    load = document.spec.workload
    return _given({name: getattr(load, name) for name in ("ttft_ms_p99", "tpot_ms_p99")})


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def described(load: Workload) -> str:
    """The load in one line."""
    swing = f", peaks of {load.swing:g} times" if load.swing > 1 else ""
    hits = f", {load.prefix_hit_share:.0%} of it in the prefix cache" if load.prefix_hit_share else ""
    tokens = f"{load.input_tokens} tokens in{hits}, {load.output_tokens} out"
    return f"{load.requests_per_s:g} requests/s{swing}, {tokens}"
