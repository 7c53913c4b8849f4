"""Kubernetes objects against their schemas: strict ones from a folder, else those of `kubernetes-validate`.

The folder (or `schemas/` in it) holds `kubernetes-VERSION.json`, the API server's own OpenAPI definitions,
`GROUP/KIND_VERSION.json` for custom resources, as collections of them are usually kept, and perhaps
`keda-scalers.json`, what KEDA's triggers take. Made strict here: unknown fields are faults.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sextant.base.errors import Misconfigured
from sextant.operations.verify.findings import Object

Judge = Callable[[Object], list[str] | None]
"""What a schema says against an object; None: there is no schema for its kind."""
QUANTITY = r"^[+-]?[0-9.]+([eE][+-]?[0-9]+|[KMGTPE]i|[numkMGTPE])?$"
PROBE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "probe"}}
PLAIN_VERSION = "1.36"
"""Of the schemas of `kubernetes-validate`, where none is asked for."""
SAID_CHARS = 300


class StrictSchemas:
    """The schemas of a folder, each read when first wanted and kept, for one check or many."""

    def __init__(self, folder: Path, version: str | None = None) -> None:
        """`version`: Kubernetes' own, as `1.36`; None: the newest there is. Raises Misconfigured."""
        self._jsonschema = _library("jsonschema")
        self._folder = folder / "schemas" if (folder / "schemas").is_dir() else folder
        own = sorted(self._folder.glob("kubernetes-*.json"), key=_version_key)
        asked = [path for path in own if version and path.stem.startswith(f"kubernetes-{version}")]
        if not own:
            raise Misconfigured(
                f"{folder}: holds no kubernetes-VERSION.json; expected a folder of schemas of Kubernetes"
            )
        self._own = (asked or own)[-1]
        self.version = self._own.stem.removeprefix("kubernetes-")
        self._definitions: dict[str, Any] = {}
        self._kinds: dict[tuple[str, str, str], str] = {}
        self._judges: dict[tuple[str, str, str], Any] = {}
        self._triggers: Mapping[str, list[dict[str, Any]]] | None = None

    def judge(self, body: Object) -> list[str] | None:
        """What the object's schema says against it; None: there is no schema for its kind."""
        group, _, version = str(body["apiVersion"]).rpartition("/")
        key = (group, version, str(body["kind"]))
        if key not in self._judges:
            self._judges[key] = self._validator(*key)
        validator = self._judges[key]
        if validator is None:
            return None
        found = [self._said(error) for error in validator.iter_errors(body)]
        return found + (list(self._wrong_triggers(body)) if key[2] == "ScaledObject" else [])

    def _said(self, error: Any) -> str:
        best = self._jsonschema.exceptions.best_match(error.context) if error.context else None
        return f"{error.json_path}: {(best or error).message}"[:SAID_CHARS]

    def _validator(self, group: str, version: str, kind: str) -> Any:
        file = self._folder / group / f"{kind.lower()}_{version}.json"
        draft = self._jsonschema.Draft202012Validator
        if group and file.is_file():
            schema = strict(json.loads(file.read_text(encoding="utf-8")))
            schema.setdefault("properties", {}).update(
                apiVersion={"type": "string"}, kind={"const": kind}, metadata={"type": "object"}
            )
            return draft(schema)
        if not self._definitions:
            self._read_own()
        name = self._kinds.get((group, version, kind))
        if name is None:
            return None
        return draft({"$ref": f"#/definitions/{name}", "definitions": self._definitions})

    def _read_own(self) -> None:
        definitions = json.loads(self._own.read_text(encoding="utf-8"))["definitions"]
        for name, schema in definitions.items():
            kinds = schema.get("x-kubernetes-group-version-kind", ())
            if len(kinds) == 1:
                (one,) = kinds
                self._kinds[one["group"], one["version"], one["kind"]] = name
        quantity = definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"]
        quantity.pop("type", None)
        quantity["anyOf"] = [{"type": "number"}, {"type": "string", "pattern": QUANTITY}]
        self._definitions = strict({"definitions": definitions})["definitions"]

    def _wrong_triggers(self, body: Object) -> Iterator[str]:
        """Parameters of a ScaledObject's triggers that KEDA's scalers do not have, or miss."""
        if self._triggers is None:
            place = self._folder / "keda-scalers.json"
            rows = json.loads(place.read_text(encoding="utf-8"))["scalers"] if place.is_file() else ()
            self._triggers = {row["type"]: row["parameters"] for row in rows}
        for trigger in body["spec"].get("triggers", ()):
            if trigger["type"] not in self._triggers:
                continue
            known = {each["name"]: each for each in self._triggers[trigger["type"]]}
            yield from (
                f"the trigger {trigger['type']} has no parameter {name}"
                for name in trigger["metadata"]
                if name not in known
            )
            yield from (
                f"the trigger {trigger['type']} lacks {name}"
                for name, each in known.items()
                if not each.get("optional") and "default" not in each and name not in trigger["metadata"]
            )


class PlainSchemas:
    """Those of `kubernetes-validate`: Kubernetes' own kinds alone, and lenient about quantities."""

    def __init__(self, version: str | None = None) -> None:
        """Raises Misconfigured where the package is not installed, or does not know that version."""
        self._package = _library("kubernetes_validate")
        self.version = version or PLAIN_VERSION
        try:
            self._package.validate(PROBE, self.version, strict=True)
        except (IndexError, self._package.utils.VersionNotSupportedError):
            raise Misconfigured(f"kubernetes-validate knows no Kubernetes {self.version}") from None

    def judge(self, body: Object) -> list[str] | None:
        """What the object's schema says against it; None: there is no schema for its kind or version."""
        try:
            self._package.validate(body, self.version, strict=True)
        except self._package.ValidationError as error:
            return [f"{error.json_path}: {error.message}"[:SAID_CHARS]]
        except self._package.SchemaNotFoundError:
            return None
        return []


def strict(schema: Any) -> Any:
    """Kubernetes' dialect of OpenAPI as JSON Schema that knows no unknown fields."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: strict(each) for name, each in value.items()}
        if key in ("properties", "definitions")
        else strict(value)
        for key, value in schema.items()
    }
    if made.get("x-kubernetes-int-or-string") or made.get("format") == "int-or-string":
        made.pop("type", None)
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if made.get("x-kubernetes-embedded-resource"):
        made.setdefault("properties", {}).update(apiVersion={}, kind={}, metadata={"type": "object"})
    if made.get("x-kubernetes-preserve-unknown-fields"):
        if made.get("additionalProperties") is False:
            del made["additionalProperties"]
    elif "properties" in made and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    if made.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def _version_key(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.stem))


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Misconfigured(
            f"the Python package {name} is not installed; install `sextant-llm[verify]`"
        ) from None
