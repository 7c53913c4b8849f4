"""Generated files on disk are those that `make docs` would write."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
import yaml

from sextant.base.errors import Permanent
from sextant.spec.document import builtin_text
from sextant.spec.schema import deployment_schema

ROOT = Path(__file__).parents[2]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES: dict[Path, str] = generator().pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_is_current(path: Path) -> None:
    assert path.exists(), f"{path.name} is missing: run `make docs`"
    assert path.read_text() == PAGES[path], f"{path.name} is out of date: run `make docs`"


def test_errors_outside_the_tree_do_not_change_the_page_of_errors() -> None:
    class OfAnotherTest(Permanent):
        code = "of_another_test"

        def __init__(self, status: int, message: str) -> None:
            super().__init__(f"{status}: {message}")

    assert OfAnotherTest in Permanent.__subclasses__()
    assert generator().errors_page() == PAGES[ROOT / "docs/reference/errors.md"]


def test_schema_accepts_the_builtin_document_and_refuses_others() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(deployment_schema())))
    document = yaml.safe_load(builtin_text())
    validator.validate(document)
    document["spec"]["modle"] = document["spec"].pop("model")
    assert {error.validator for error in validator.iter_errors(document)} == {
        "additionalProperties",
        "anyOf",
    }
    document = yaml.safe_load(builtin_text())
    document["spec"]["gateway"] = {"port": 70000}
    assert [error.validator for error in validator.iter_errors(document)] == ["maximum"]
