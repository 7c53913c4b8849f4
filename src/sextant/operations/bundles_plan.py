"""What a bundle's models run on: each launched model planned on the hardware that the document's sites name.

Joins the document, the catalogue and the planner for `bundles.py`. Models take their accelerators in the
order of the document, each from what the ones before have left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import msgspec

from sextant.base.errors import NotFound, Unsupported
from sextant.planner import memory, options
from sextant.planner.cold_start import cold_start
from sextant.planner.plan import plan
from sextant.spec.architecture import PRECISIONS, KvPrecision, ModelArchitecture, Precision
from sextant.spec.cold_start import load_start_facts
from sextant.spec.document import Deployment, ModelEntry
from sextant.spec.engine_sections import LaunchedEngine
from sextant.spec.facts import Catalog
from sextant.spec.hardware import Accelerator
from sextant.spec.planning import Engine, Option, Plan, Question, Refusal, Targets, Wishes, Workload
from sextant.spec.rendering import Facts, ServedModel, vendor_of

PLANNED_AS = {"triton": "trtllm", "nim": "trtllm"}
"""Engines that the planner has no factors of its own for, and what it takes for them."""
PRECISION_WORDS: dict[str, Precision] = {
    "awq": "int4",
    "gptq": "int4",
    "compressed-tensors": "int8",
    "bfloat16": "bf16",
    "half": "bf16",
    "float16": "bf16",
    "nvfp4": "fp4",
    "mxfp4": "fp4",
}
"""The engines' words for how weights are kept, beside the planner's own."""
EDGE_WATTS = 60.0
"""Where sites name no hardware: accelerators up to so much are for the edge, like those built into devices;
others for servers."""
LOAD_BYTES_PER_S = 1.5e9
"""Weights read from a node's disk into its accelerators: an estimate of November 2026, a little under what
one NVMe disk of a server gives."""
START_S = 60.0
"""From the program's start to its first load, and from the last weight to the first answer (graphs, kernels):
an estimate of November 2026."""


def served_models(
    deployment: Deployment, facts: Facts, catalog: Catalog, tools: options.Tools
) -> tuple[ServedModel, ...]:
    """Every model of the document with its plan's choice: the cheapest option, or where prices are missing
    the one with the least power.

    Raises Unsupported with what comes closest where nothing fits, NotFound for a model or accelerator that
    the catalogue does not know."""
    left = _stated(deployment, catalog)
    found = []
    for entry in deployment.spec.served:
        served = _served(entry, (deployment, facts, catalog), tools, left)
        option = served.option
        if option is not None and left:
            left = {**left, option.accelerator.id: left[option.accelerator.id] - option.count}
        found.append(served)
    return tuple(found)


def _served(
    entry: ModelEntry,
    known: tuple[Deployment, Facts, Catalog],
    tools: options.Tools,
    left: dict[str, int],
) -> ServedModel:
    deployment, facts, catalog = known
    if not isinstance(entry.engine, LaunchedEngine):
        return ServedModel(entry=entry, architecture=_architecture_if_known(entry, catalog))
    model = _architecture(entry, catalog)
    asked = _question(deployment, entry, entry.engine, model)
    offered: list[Option] = []
    plans: list[Plan] = []
    for accelerator in _considered(deployment, entry, (facts, catalog), left):
        wishes = asked.wishes
        if left:
            wishes = msgspec.structs.replace(wishes, most=max(1, left[accelerator.id]))
        question = msgspec.structs.replace(asked, accelerators=(accelerator,), wishes=wishes)
        plans.append(plan(question, tools))
        offered.extend(option for option in plans[-1].options if not left or left[accelerator.id] > 0)
    if not offered:
        raise Unsupported(_nothing_fits(entry, plans, left), field="spec.sites")
    weights, _ = memory.weights_bytes(model, asked.precision)
    option = _chosen(tuple(offered))
    return ServedModel(
        entry=entry,
        option=option,
        architecture=model,
        weights_bytes=weights,
        kv_precision=asked.kv_precision,
        load_s=START_S + weights / (LOAD_BYTES_PER_S * _machines(option)),
        start=cold_start(
            model, asked.precision, engine=asked.engine, option=option, facts=load_start_facts()
        ),
    )


def _stated(deployment: Deployment, catalog: Catalog) -> dict[str, int]:
    """Accelerators by id; empty where no site says any. Of all sites together, but for a hybrid: there both
    sites hold every model, so only what each of them has counts."""
    of_sites = []
    for site in deployment.spec.sites:
        here: dict[str, int] = {}
        for each in site.accelerators:
            id_ = catalog.accelerator(each.name).id
            here[id_] = here.get(id_, 0) + each.count
        if here:
            of_sites.append(here)
    together = min if deployment.spec.mode == "hybrid" else sum
    ids = dict.fromkeys(id_ for here in of_sites for id_ in here)
    return {id_: together(here.get(id_, 0) for here in of_sites) for id_ in ids}


def _considered(
    deployment: Deployment, entry: ModelEntry, known: tuple[Facts, Catalog], left: dict[str, int]
) -> tuple[Accelerator, ...]:
    """The accelerators of the sites, or where they say none all of the catalogue, without those that the
    capability matrix refuses for this engine and mode. Raises Unsupported where none is left."""
    facts, catalog = known
    refused = {
        cell.vendor: cell.reason
        for cell in facts.cells
        if (cell.engine, cell.mode, cell.proof) == (entry.engine.kind, deployment.spec.mode, "unsupported")
    }
    all_ = [catalog.accelerators[id_] for id_ in left] if left else list(catalog.accelerators.values())
    found = tuple(one for one in all_ if vendor_of(one.vendor) not in refused)
    if not left:
        is_edge = deployment.spec.mode == "edge"
        found = tuple(one for one in found if (one.kind == "jetson" or one.watts <= EDGE_WATTS) == is_edge)
    if not found:
        vendor = vendor_of(all_[0].vendor)
        reason = refused.get(vendor, "this version knows no edge device for it")
        cell = f"{vendor} x {entry.engine.kind} x {deployment.spec.mode}"
        raise Unsupported(
            f"{entry.name}: {cell} is not supported: {reason}",
            field="spec.engine.kind",
        )
    return found


def _question(
    deployment: Deployment, entry: ModelEntry, engine: LaunchedEngine, model: ModelArchitecture
) -> Question:
    load = deployment.spec.workload
    said = {
        name: value
        for name in ("requests_per_s", "input_tokens", "output_tokens")
        if (value := getattr(load, name)) is not None
    }
    pinned = engine.tensor_parallel if "tensor_parallel" in engine.model_fields_set else None
    kv_precision: KvPrecision = "fp8" if model.attention == "v4" else "bf16"
    return Question(
        architecture=model,
        precision=_precision(entry, engine, model),
        kv_precision=kv_precision,
        engine=_engine(engine.kind),
        accelerators=(),
        workload=Workload(**said),
        targets=Targets(ttft_ms_p99=load.ttft_ms_p99, tpot_ms_p99=load.tpot_ms_p99),
        wishes=Wishes(tp=pinned, split=deployment.spec.planning.split, context_tokens=engine.context_tokens),
    )


def _engine(kind: str) -> Engine:
    name = PLANNED_AS.get(kind, kind)
    return next(one for one in get_args(Engine) if one == name)


def _precision(entry: ModelEntry, engine: LaunchedEngine, model: ModelArchitecture) -> Precision:
    """How the weights are kept: as the document says, as the file's name says, else as published."""
    said = (engine.precision or "").casefold()
    if said in PRECISION_WORDS:
        return PRECISION_WORDS[said]
    for known in PRECISIONS:
        if said == known:
            return known
    if engine.kind != "llamacpp":
        return model.native_precision
    name = (entry.source or "").casefold()
    quantised: tuple[Precision, ...] = ("q2", "q4", "q8")
    return next((known for known in quantised if known in name), "q8")


def _architecture(entry: ModelEntry, catalog: Catalog) -> ModelArchitecture:
    return catalog.served(entry.name, entry.aliases, entry.source)


def _architecture_if_known(entry: ModelEntry, catalog: Catalog) -> ModelArchitecture | None:
    try:
        return _architecture(entry, catalog)
    except NotFound:
        return None


def _chosen(offered: tuple[Option, ...]) -> Option:
    index = options.lowest(offered, options.price)
    if index is None or any(options.price(option) is None for option in offered):
        index = options.lowest(offered, lambda option: option.count * option.accelerator.watts)
    return offered[index or 0]


def _machines(option: Option) -> int:
    return max(1, -(-option.layout.replica // option.accelerator.per_node))


def _nothing_fits(entry: ModelEntry, plans: list[Plan], left: dict[str, int]) -> str:
    there = ", ".join(f"{count} x {id_}" for id_, count in left.items())
    closest = sorted(_refusals(plans), key=lambda refusal: -refusal.nearness)[:3]
    said = "; ".join(f"{one.first_break.text} (give up {one.give_up})" for one in closest)
    return (
        f"{entry.name}: no way to serve it was found on {there or 'any accelerator of the catalogue'}: "
        f"{said or 'nothing came close'}; `sextant plan` shows more"
    )


def _refusals(plans: list[Plan]) -> Iterator[Refusal]:
    """Without those that only say to drop `most`, which was not the user's wish but what the sites have."""
    for one in plans:
        yield from (refusal for refusal in one.refusals if refusal.first_break.key != "most")
