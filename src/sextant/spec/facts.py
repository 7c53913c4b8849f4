"""The catalogue, from `data/{architectures,accelerators,precisions}.toml`, and a user's own.

Every field has a source: where it stands, when it was looked up, or that it is an estimate. A user's file has
the same form, is checked the same way, and adds entries or replaces fields of known ones. Nothing is kept
here: the caller loads once. Neighbours: `architecture.py`, `hardware.py` (the nouns), `planner/` (what reads
them), `cli/catalog.py` (what shows them).
"""

from __future__ import annotations

import datetime
import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Literal, TypeVar

import msgspec

from sextant.base.errors import Misconfigured, NotFound, Unsupported
from sextant.spec.architecture import ModelArchitecture, PrecisionFacts
from sextant.spec.hardware import Accelerator

NEAREST_SHOWN = 3
LIKE_DEPTH = 4
"""So many entries may be `like` one another in a row."""
ANY_FIELD = "*"
UNSOURCED = frozenset({"id", "aliases", "sources", "title", "family", "vendor", "kind"})
"""Fields that name a thing and need no source."""

NOT_INHERITED = frozenset({"id", "aliases", "like", "checkpoints"})
"""What an entry does not take from the one that it is `like`."""
NEVER_ZERO = frozenset(
    {"layers", "hidden", "heads", "vocabulary", "context_tokens", "params_total", "params_active"}
    | {"memory_bytes", "bandwidth_bytes_per_s", "watts", "per_node"}
)
SOURCED = ("model", "accelerator")
"""Sections whose entries have a source for each field."""
NOUNS = (*SOURCED, "precision")
UNFIT = "unfit"
"""Section of `accelerators.toml` for those that no engine serves on; a user's file has none."""

Tables = dict[str, dict[str, Any]]
"""Section (`source`, `model`, `accelerator`) to id to fields."""

Noun = TypeVar("Noun", ModelArchitecture, Accelerator)


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a value comes from."""

    where: str
    """Page, paper, or file of a repository."""
    date: datetime.date | None = None
    """When it was looked up, or the estimate made; None: a user did not say."""
    kind: Literal["looked up", "estimate", "computed", "user"] = "looked up"


class Unfit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An accelerator that people have and that no engine here serves on: why, and what to do instead."""

    title: str
    aliases: tuple[str, ...] = ()
    reason: str
    instead: str
    source: str
    """Where the reason stands, a `[source.ID]`."""


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known, by id, in the order of the files."""

    models: Mapping[str, ModelArchitecture]
    accelerators: Mapping[str, Accelerator]
    precisions: tuple[PrecisionFacts, ...]
    sources: Mapping[str, Source]
    unfit: Mapping[str, Unfit] = {}

    def model(self, name: str) -> ModelArchitecture:
        """The model of that id or alias, letter case aside. Raises NotFound with the nearest names."""
        found: ModelArchitecture = _named(self.models, name, "model", "sextant catalog models")
        return found

    def served(self, name: str, aliases: Sequence[str], source: str | None) -> ModelArchitecture:
        """The model that a document serves: what is loaded says more than what callers name it, so the
        source's last name comes first (`hf:org/NAME@revision:file`), then `name`, then `aliases`. Raises
        NotFound with the nearest names."""
        path = (source or "").removeprefix("hf:").removeprefix("modelscope:")
        loaded = path.partition("@")[0].partition(":")[0].rpartition("/")[2]
        for one in (loaded, name, *aliases):
            try:
                return self.model(one)
            except NotFound:
                continue
        return self.model(loaded or name)

    def accelerator(self, name: str) -> Accelerator:
        """The accelerator of that id or alias, letter case aside. Raises NotFound with the nearest names, and
        Unsupported for one that is known to serve nothing."""
        for id_, unfit in self.unfit.items():
            if name.casefold() in {other.casefold() for other in (id_, *unfit.aliases)}:
                where = self.sources[unfit.source].where
                raise Unsupported(
                    f"`{name}` ({unfit.title}) is not supported: {unfit.reason} ({where}); {unfit.instead}"
                )
        found: Accelerator = _named(self.accelerators, name, "accelerator", "sextant catalog accelerators")
        return found

    def source_of(self, noun: ModelArchitecture | Accelerator, field: str) -> Source:
        """Where that field's value comes from."""
        return self.sources[noun.sources.get(field) or noun.sources[ANY_FIELD]]


def load_catalog(own: str = "", own_name: str = "your facts") -> Catalog:
    """The catalogue that comes with Sextant, with the TOML text `own` on top.

    Raises Misconfigured naming the entry and field that is wrong in `own`.
    """
    data = resources.files("sextant.spec").joinpath("data")
    tables: Tables = {}
    for name in ("architectures.toml", "accelerators.toml", "precisions.toml"):
        _add(tables, _parsed(data.joinpath(name).read_text(encoding="utf-8"), name), "")
    if own:
        _add(tables, _parsed(own, own_name), own_name)
    return _catalog(tables)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names most like `name`, for a message: `nearest: a, b`; empty when there is none near."""
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=NEAREST_SHOWN, cutoff=0.4)
    within = [one for one in folded if name and name.casefold() in one]
    found = dict.fromkeys([*within[:NEAREST_SHOWN], *close])
    return ", ".join(folded[one] for one in list(found)[:NEAREST_SHOWN])


def _named(entries: Mapping[str, Any], name: str, what: str, command: str) -> Any:
    folded = name.casefold()
    names: dict[str, str] = {}
    for id_, entry in entries.items():
        for other in (id_, *entry.aliases):
            names[other] = id_
            if other.casefold() == folded:
                return entry
    near = nearest(name, names)
    hint = f"nearest: {near}" if near else f"there are {len(entries)} of them"
    raise NotFound(
        f"there is no {what} `{name}` in the catalogue; {hint}; `{command}` lists all, and a facts file of "
        f"yours can add it"
    )


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{name}: not valid TOML: {error}") from None


def _add(tables: Tables, more: dict[str, Any], own_name: str) -> None:
    """Puts `more` over `tables`. What a user's file says without naming a source is the user's word."""
    for section, entries in more.items():
        if section not in NOUNS and section != "source" and (own_name or section != UNFIT):
            raise Misconfigured(
                f"{own_name}: there is no section `{section}`; expected [source.ID], [model.ID], "
                f"[accelerator.ID] or [precision.ID]"
            )
        if not isinstance(entries, dict):
            raise Misconfigured(f"{own_name}: {section} is `{entries}`; expected a table of them")
        known = tables.setdefault(section, {})
        for id_, entry in entries.items():
            if not isinstance(entry, dict):
                raise Misconfigured(f"{own_name}: {section}.{id_} is `{entry}`; expected a table")
            if not isinstance(entry.get("sources", {}), dict):
                raise Misconfigured(f"{own_name}: {section}.{id_}: sources is no table of fields")
            base = known.get(id_, {})
            named = {} if section == "source" else {"id": id_}
            known[id_] = {**named, **base, **entry}
            if own_name and section in SOURCED:
                known[id_]["sources"] = _sources(base, entry, own_name)
    if own_name:
        tables.setdefault("source", {})[own_name] = {"where": own_name, "kind": "user"}


def _sources(base: dict[str, Any], entry: dict[str, Any], own_name: str) -> dict[str, str]:
    said = {field: own_name for field in entry if field not in UNSOURCED and field != "like"}
    rest = {} if base or "like" in entry else {ANY_FIELD: own_name}
    return {**rest, **base.get("sources", {}), **said, **entry.get("sources", {})}


def _catalog(tables: Tables) -> Catalog:
    sources = {id_: _converted(entry, Source, f"source.{id_}") for id_, entry in tables["source"].items()}
    models = _entries(tables["model"], ModelArchitecture, "model")
    accelerators = _entries(tables["accelerator"], Accelerator, "accelerator")
    nouns: list[ModelArchitecture | Accelerator] = [*models.values(), *accelerators.values()]
    for noun in nouns:
        _check_numbers(noun)
        _check_sources(noun, sources)
    for model in models.values():
        _check_model(model)
    precisions = tuple(
        _converted(entry, PrecisionFacts, f"precision.{id_}") for id_, entry in tables["precision"].items()
    )
    for one in precisions:
        _known_source(one.id, "accuracy", one.source, sources)
    unfit = _unfit(tables, accelerators, sources)
    return Catalog(
        models=models, accelerators=accelerators, precisions=precisions, sources=sources, unfit=unfit
    )


def _unfit(
    tables: Tables, accelerators: Mapping[str, Accelerator], sources: Mapping[str, Source]
) -> dict[str, Unfit]:
    """Those entries, without what a user's own facts describe after all."""
    own = {other.casefold() for id_, one in accelerators.items() for other in (id_, *one.aliases)}
    found = {}
    for id_, entry in tables.get(UNFIT, {}).items():
        one: Unfit = _converted({k: v for k, v in entry.items() if k != "id"}, Unfit, f"{UNFIT}.{id_}")
        _known_source(id_, "reason", one.source, sources)
        if own.isdisjoint(other.casefold() for other in (id_, *one.aliases)):
            found[id_] = one
    return found


def _entries(tables: dict[str, Any], noun: type[Noun], section: str) -> dict[str, Noun]:
    """Each entry, what it is `like` filled in."""
    return {
        id_: _converted(_filled(tables, id_, f"{section}.{id_}", depth=0), noun, f"{section}.{id_}")
        for id_ in tables
    }


def _filled(tables: dict[str, Any], id_: str, place: str, *, depth: int) -> dict[str, Any]:
    entry = tables[id_]
    own = {field: value for field, value in entry.items() if field != "like"}
    like = entry.get("like")
    if like is None:
        return own
    if like not in tables:
        near = nearest(str(like), tables)
        raise Misconfigured(f"{place}: like = `{like}` is not in the catalogue; nearest: {near or 'none'}")
    if depth == LIKE_DEPTH:
        raise Misconfigured(f"{place}: like = `{like}` goes round or is over {LIKE_DEPTH} deep")
    base = _filled(tables, like, place, depth=depth + 1)
    kept = {field: value for field, value in base.items() if field not in NOT_INHERITED}
    return {**kept, **own, "sources": {**base.get("sources", {}), **own.get("sources", {})}}


def _converted(entry: dict[str, Any], kind: type[Any], place: str) -> Any:
    unknown = [field for field in entry if field not in kind.__struct_fields__]
    if unknown:
        near = nearest(unknown[0], kind.__struct_fields__)
        raise Misconfigured(
            f"{place}: there is no field `{unknown[0]}`; "
            + (f"nearest: {near}" if near else f"known: {', '.join(kind.__struct_fields__)}")
        )
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{place}: {error}") from None


def _check_numbers(noun: ModelArchitecture | Accelerator) -> None:
    for field in noun.__struct_fields__:
        value = getattr(noun, field)
        numbers: Iterable[Any] = value.values() if isinstance(value, Mapping) else [value]
        if isinstance(value, msgspec.Struct):
            numbers = msgspec.structs.astuple(value)
        for number in numbers:
            if isinstance(number, int | float) and not (0 <= number < float("inf")):
                raise Misconfigured(f"{noun.id}: {field} is {number}; expected a number of 0 or more")
        if field in NEVER_ZERO and not value:
            raise Misconfigured(f"{noun.id}: {field} is {value}; expected more than 0")


def _check_sources(noun: ModelArchitecture | Accelerator, sources: Mapping[str, Source]) -> None:
    for field, source in noun.sources.items():
        _known_source(noun.id, field, source, sources)
        if field != ANY_FIELD and field not in noun.__struct_fields__:
            raise Misconfigured(f"{noun.id}: sources names {field}, which is no field")
    if ANY_FIELD not in noun.sources:
        raise Misconfigured(f'{noun.id}: no source; add sources = {{"*" = "ID"}}')


def _known_source(id_: str, field: str, source: str, sources: Mapping[str, Source]) -> None:
    if source not in sources:
        raise Misconfigured(f"{id_}: the source `{source}` of {field} is not given; add [source.{source}]")


def _check_model(model: ModelArchitecture) -> None:
    """Raises Misconfigured for sizes that contradict each other."""
    said = ""
    if model.params_active > model.params_total:
        said = f"{model.params_active:g} active parameters are more than all {model.params_total:g}"
    elif model.experts_active > model.experts_routed:
        said = f"{model.experts_active} active experts are more than all {model.experts_routed}"
    elif model.attention == "gqa" and (model.kv_heads < 1 or model.heads % model.kv_heads):
        said = f"{model.heads} heads do not divide among {model.kv_heads} KV heads"
    elif model.attention in ("mla", "sparse-mla") and not model.kv_lora_rank:
        said = f"attention `{model.attention}` needs kv_lora_rank"
    elif not all(ratio.isdecimal() for ratio in model.compression_layers):
        said = f"compression_layers has ratios {', '.join(model.compression_layers)}; expected whole numbers"
    elif model.attention == "v4" and sum(model.compression_layers.values()) != model.layers:
        said = f"compression_layers add up to {sum(model.compression_layers.values())}, not {model.layers}"
    elif model.growing_layers + model.window_layers > model.layers:
        said = f"kv_layers and window_layers are more than all {model.layers} layers"
    if said:
        raise Misconfigured(f"{model.id}: {said}")
