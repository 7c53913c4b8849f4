"""The document that an import writes: remote models, one entry each, with references instead of secrets."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sextant.base.config import SECRET_REFERENCE
from sextant.base.errors import BadDocument
from sextant.operations.importing.plan import Note, Secret
from sextant.spec.document import parse_document

MODELS_MAX = 64
"""As many as a document takes."""
TRIED_MAX = 2000
"""So many are looked at; each is checked as the document would be."""
CONTEXT_TOKENS_MIN = 256
CONTEXT_TOKENS_MAX = 10_485_760


class Endpoint(msgspec.Struct, frozen=True):
    """A model at an endpoint, as the source has it. `api_key` is the source's own word for it, resolved by
    `Catalogue.reference`."""

    name: str
    base_url: str
    upstream_model: str
    api_key: str = ""
    compliant: bool = False
    context_tokens: int | None = None
    capabilities: dict[str, bool] = {}
    concurrent_requests: int | None = None


class Catalogue:
    """Collects models; the first of a name stays, since this version serves one endpoint a model."""

    def __init__(self, notes: list[Note]) -> None:
        self._notes = notes
        self._entries: dict[str, dict[str, Any]] = {}
        self._aliases: dict[str, str] = {}
        self._references: dict[str, Secret] = {}
        self._tried = 0
        self.gateway_limits: dict[str, int] = {}

    @property
    def secrets(self) -> tuple[Secret, ...]:
        return tuple(self._references.values())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def add(self, endpoint: Endpoint, where: str) -> None:
        """Takes a model in, or notes why not."""
        if endpoint.name in self._entries:
            said = f"`{endpoint.name}` has an endpoint already; this version serves one endpoint a model"
            self._left_out(where, said)
            return
        if len(self._entries) == MODELS_MAX:
            self._left_out(
                where, f"a document holds {MODELS_MAX} models; `{endpoint.name}` would be one more"
            )
            return
        entry = self._entry(endpoint, where)
        self._tried += 1
        too_many = f"more than {TRIED_MAX} endpoints" if self._tried > TRIED_MAX else ""
        faults = too_many or _faults({"models": [entry]})
        if faults:
            self._left_out(where, f"`{endpoint.name}` cannot be an entry of spec.models: {faults}")
            return
        self._entries[endpoint.name] = entry

    def alias(self, name: str, model: str, where: str) -> None:
        """Takes another name for a model in, or notes why not."""
        entry = self._entries.get(model)
        if entry is None:
            self._left_out(where, f"`{name}` stands for `{model}`, which is not carried over")
        elif name in self._entries or name in self._aliases:
            self._left_out(where, f"`{name}` is the name of a model already")
        elif _faults({"models": [{**entry, "aliases": [*entry.get("aliases", []), name]}]}):
            self._left_out(where, f"`{name}` cannot be a model's other name here")
        else:
            entry.setdefault("aliases", []).append(name)
            self._aliases[name] = model

    def scope(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Ids for the models that a caller may use, by their names, other names and `prefix*`. What is not
        served here stays as it is, so that a list never becomes empty and with it unlimited."""
        found: dict[str, None] = {}
        for name in names:
            if "*" in name:
                pattern = re.escape(name).replace(r"\*", ".*")
                matched = [model for model in self._entries if re.fullmatch(pattern, model)]
                found.update(dict.fromkeys(matched or [name]))
            else:
                found[self._aliases.get(name, name)] = None
        return tuple(found)

    def reference(self, name: str, where: str, value: str) -> str:
        """The reference that stands for a secret which the source holds itself."""
        for known in self._references.values():
            if known.value == value:
                return known.reference
        variable = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")[:60] or "MODEL"
        reference = f"env:{variable}_API_KEY"
        number = 1
        while reference in self._references:
            number += 1
            reference = f"env:{variable}_{number}_API_KEY"
        self._references[reference] = Secret(reference, where, value)
        return reference

    def document(self) -> dict[str, Any] | None:
        """The document, checked; None where there is no model to serve."""
        if not self._entries:
            return None
        spec: dict[str, Any] = {"models": list(self._entries.values())}
        if self.gateway_limits:
            spec["gateway"] = {"limits": self.gateway_limits}
        faults = _faults(spec)
        if faults:
            raise BadDocument(f"the document made of this source would be wrong ({faults}); please report it")
        return _document(spec)

    def _entry(self, endpoint: Endpoint, where: str) -> dict[str, Any]:
        engine: dict[str, Any] = {"kind": "remote", "base_url": endpoint.base_url}
        if endpoint.api_key:
            known = SECRET_REFERENCE.fullmatch(endpoint.api_key) is not None
            engine["api_key"] = (
                endpoint.api_key if known else self.reference(endpoint.name, where, endpoint.api_key)
            )
        if endpoint.upstream_model != endpoint.name:
            engine["upstream_model"] = endpoint.upstream_model
        if endpoint.compliant:
            engine["compliant"] = True
        if endpoint.context_tokens is not None:
            engine["context_tokens"] = min(
                max(endpoint.context_tokens, CONTEXT_TOKENS_MIN), CONTEXT_TOKENS_MAX
            )
        if endpoint.capabilities:
            engine["capabilities"] = endpoint.capabilities
        entry: dict[str, Any] = {"name": endpoint.name, "engine": engine}
        if endpoint.concurrent_requests:
            entry["concurrent_requests"] = endpoint.concurrent_requests
        return entry

    def _left_out(self, where: str, said: str) -> None:
        self._notes.append(Note("left out", where, said))


def _document(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "sextant.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "imported"},
        "spec": spec,
    }


def _faults(spec: dict[str, Any]) -> str:
    """What the document's own checks say of it, in one line; empty: nothing."""
    import yaml

    try:
        parse_document(yaml.safe_dump(_document(spec), sort_keys=False, allow_unicode=True))
    except BadDocument as error:
        parts = [line.strip() for line in error.message.splitlines() if line.strip()]
        expected = next((line for line in parts if line.startswith("expected:")), "")
        said = parts[1].partition(": ")[2] if len(parts) > 1 else error.message
        return f"{said}; {expected}" if expected else said
    return ""
