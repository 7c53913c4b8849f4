"""The JSON Schema of the deployment document, generated from its models.

`data/deployment.schema.json` is its copy on disk, for editors; `make docs` writes it and a
test keeps it current. It states shape, types and bounds; what must fit together across fields only
`document.load_document` knows.
"""

from __future__ import annotations

import json
from typing import Any

from sextant.spec.document import Deployment
from sextant.spec.fields import PATTERNS

SCHEMA_ID = "https://sextant.dev/schemas/v1alpha1/deployment.schema.json"


def deployment_schema() -> dict[str, Any]:
    """The schema as JSON Schema draft 2020-12."""
    schema = Deployment.model_json_schema(by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID}
    return {**head, **_with_words(schema)}


def schema_text() -> str:
    """The file's content."""
    return json.dumps(deployment_schema(), indent=2, ensure_ascii=False) + "\n"


def _with_words(node: Any) -> Any:
    """The same schema with patterns explained and without the titles that only repeat field names."""
    if isinstance(node, list):
        return [_with_words(item) for item in node]
    if not isinstance(node, dict):
        return node
    words = {
        key: _with_words(value) for key, value in node.items() if key != "title" or not isinstance(value, str)
    }
    meaning = PATTERNS.get(words.get("pattern", "")) if isinstance(words.get("pattern"), str) else None
    if meaning is not None:
        words["$comment"] = meaning
    return words
