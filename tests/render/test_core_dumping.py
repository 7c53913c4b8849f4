"""Files of a bundle: the same bytes always, and nothing read back as another type."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.render.dumping import json_file, script_file, text_file, yaml_file, yaml_text

AWKWARD = [
    "", " ", "y", "No", "ON", "true", "null", "~", "1", "1.36", "0x1f", "1e3", ".5", "12:30:45", "2026-11-22",
    "a: b", "a:", ": a", "a #b", "# a", "- a", "-", "? a", "[a]", "{a}", "*a", "&a", "!a", "|", ">", "%a",
    "@a", "`a`", "'a'", '"a"', "a\tb", "a\nb", "a\n", "\n", "\n\na", "a\n\n", " a\nb", "\ta\nb", "a \nb",
    "a\n \nb",
    "a\r\nb", "\x00", "\x1b[1m", "\x7f", "\x85", "\u2028", "\ufeff", "é", "模型", "😀", "a😀\nb", "\\n", "\\",
    "$(LWS_LEADER_ADDRESS)", "500m", "16Gi", "0m", "http://a:80/b", "a:b", "=", "<<", "inf",
    ".inf", "+1", "_1", "1_000",
]  # fmt: skip
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(AWKWARD)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text() | st.sampled_from(AWKWARD), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD, ids=repr)
@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
def test_text_stays_text(text: str, loader: Any) -> None:
    for value in (text, {"a": text}, [text], {text: 1}, {"a": [{"b": text, "c": 1}]}):
        assert yaml.load(yaml_text(value), loader) == value


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert yaml.safe_load(yaml_text(value)) == value


def test_an_object_begins_with_what_it_is() -> None:
    text = yaml_text(
        {"spec": {"z": 1, "a": 2}, "metadata": {"labels": {}, "name": "n"}, "kind": "K", "apiVersion": "v1"}
    )
    assert text == (
        'apiVersion: v1\nkind: K\nmetadata:\n  name: "n"\n  labels: {}\nspec:\n  z: 1\n  a: 2\n'
    )  # fmt: skip


def test_several_objects_stand_in_one_file_with_a_comment_above() -> None:
    made = yaml_file("a.yaml", {"kind": "A"}, {"kind": "B"}, comment="Two.\nThings.")
    assert made.content == b"# Two.\n# Things.\nkind: A\n---\nkind: B\n"
    assert [each["kind"] for each in yaml.safe_load_all(made.content)] == ["A", "B"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1}, b"x", object()])
def test_what_has_no_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="has no form"):
        yaml_text({"a": value})


def test_other_forms() -> None:
    assert json.loads(json_file("a.json", {"b": "é", "a": [1]}).content) == {"b": "é", "a": [1]}
    assert text_file("a", "x\n\n").content == b"x\n"
    script = script_file("a.sh", "echo hi\n")
    assert (script.content, script.executable) == (b"#!/bin/sh\nset -eu\necho hi\n", True)
