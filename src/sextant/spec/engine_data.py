"""What is known of each engine, from `data/engines.toml`: where it answers, what it is called with, what it
does differently, its metrics, and what of it has been shown to work.

The adapters (`sextant.engines`) turn this into launches; the support table of the guide is made of it. Read
once, when first asked for. A fact without a source, or with a metric that our table does not have, fails the
tests.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

import msgspec

from sextant.base.errors import Unsupported
from sextant.spec.snapshot import Capabilities, Quirks

Binding = Literal["SO_REUSEPORT", "SO_REUSEADDR", "none"]
"""What an engine sets on its socket: whether it can bind a port that the supervisor holds. `none`: it starts
nothing here, or needs the port let go first."""

Shown = Literal["executed here", "contract-tested", "unverified", "not offered"]

INHERITED = ("quirks", "capabilities", "metrics", "rule", "capability_flags")
"""What `like` takes over from another engine where this one says nothing."""


class Traits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model's own files say of it, as far as rules ask; empty where it is not known."""

    architecture: str = ""
    """`model_type` of a Hugging Face configuration, or `general.architecture` of a GGUF file."""
    chat_template: str = ""
    sizes: Mapping[str, int] = {}
    """Numbers of its configuration by name (`kv_lora_rank`, `qk_rope_head_dim`, …)."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments and environment for models of some kind. A condition that is empty is met; one that asks for
    what is not known of the model is not."""

    why: str
    source: str
    architectures: tuple[str, ...] = ()
    template_has: tuple[str, ...] = ()
    template_lacks: tuple[str, ...] = ()
    sizes_other_than: dict[str, int] = {}
    """Met when a known size of the model differs from one of these."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}

    def applies(self, model: Traits) -> bool:
        """Whether this rule is for `model`."""
        if self.architectures and model.architecture not in self.architectures:
            return False
        template = model.chat_template
        if (self.template_has or self.template_lacks) and not template:
            return False
        if not all(mark in template for mark in self.template_has):
            return False
        if any(mark in template for mark in self.template_lacks):
            return False
        usual = self.sizes_other_than
        return not usual or any(model.sizes.get(name, size) != size for name, size in usual.items())


class Support(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cell of the support table. `evidence` is the test or recorded answer that shows it."""

    shown: Shown
    evidence: str = ""
    note: str = ""


class EngineData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine. Paths are targets on its origin, but for `api_path`, the API's root."""

    title: str
    version: str
    """The release that the facts are about."""
    looked_up: datetime.date
    sources: dict[str, str]
    """Group of facts (`launch`, `health`, …) to where they stand."""
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    api_path: str = "/v1"
    health_path: str = "/health"
    metrics_path: str = ""
    metrics_need_key: bool = False
    key_variable: str = ""
    """The environment variable that carries the API key into the process; empty: it takes none."""
    binds_with: Binding = "none"
    precision_is_dtype: tuple[str, ...] = ()
    """Words for `precision` that name a data type; others name a quantisation."""
    quantisations: tuple[str, ...] = ()
    """Its other words for `precision`; empty: they are not known, and any is handed on."""
    backends: tuple[str, ...] = ()
    """Its words for `backend`; empty: it has none."""
    refused: dict[str, str] = {}
    """Options of `spec.engine` that mean nothing to this engine, with the reason."""
    remarks: dict[str, str] = {}
    """What whoever runs a bundle must know of it, by `backend`; the empty word is for every one."""
    quirks: Quirks = Quirks()
    capabilities: Capabilities = Capabilities()
    capability_flags: dict[str, str] = {}
    """Capability to the argument without which the engine does not have it."""
    metrics: dict[str, str] = {}
    """The engine's own metric name, as it stands in its text, to the name in our metric table."""
    rule: tuple[Rule, ...] = ()
    support: dict[str, Support] = {}

    def rules_for(self, model: Traits) -> tuple[Rule, ...]:
        """The rules that apply to `model`, in order."""
        return tuple(rule for rule in self.rule if rule.applies(model))

    def is_dtype(self, precision: str) -> bool:
        """Whether that word names a data type, not a quantisation. Raises Unsupported where it is neither."""
        if precision in self.precision_is_dtype:
            return True
        if self.quantisations and precision not in self.quantisations:
            known = (*self.precision_is_dtype, *self.quantisations)
            close = [word for word in known if precision in word]
            close = close or difflib.get_close_matches(precision, known, n=3)
            raise Unsupported(
                f"spec.engine.precision: {self.title} {self.version} knows no `{precision}`; it takes "
                f"{', '.join(close or known)}{' and others' if close else ''}; weights that say in their own "
                f"config.json how they were quantised need no precision here"
            )
        return False


@functools.cache
def engines() -> dict[str, EngineData]:
    """Every engine by its kind, in the order of the file."""
    text = resources.files("sextant.spec").joinpath("data/engines.toml").read_text(encoding="utf-8")
    return read_engines(text)


def read_engines(text: str) -> dict[str, EngineData]:
    """The engines in `text`, inheritance resolved. Raises msgspec.ValidationError naming the wrong field."""
    tables: dict[str, dict[str, Any]] = tomllib.loads(text)
    found = {}
    for kind, table in tables.items():
        like = tables.get(table.get("like", ""), {})
        own = {name: value for name, value in table.items() if name != "like"}
        taken = {name: like[name] for name in INHERITED if name in like}
        found[kind] = msgspec.convert({**taken, **own}, EngineData)
    return found
