"""One bundle of servers and one of a box, file by file, as reviewed. Run as a program it writes them anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from tests.render.host_bundles import HOSTS, PAIR
from tests.render.orders import EMBEDDED, order

from sextant.render import render
from sextant.spec.bundle import Bundle

GOLDEN = Path(__file__).parent / "golden"
VERSION = "1.0.0"


def bundle(mode: str) -> Bundle:
    """A standby pair and a box, each with the bundled model."""
    pair = {**EMBEDDED, **PAIR, "sites": [{"name": "hall-1", "hosts": HOSTS}]}
    made = order("on-prem", **pair) if mode == "on-prem" else order("edge", **EMBEDDED)
    return render(msgspec.structs.replace(made, version=VERSION))


@pytest.mark.parametrize("mode", ["on-prem", "edge"])
def test_the_bundle_is_as_reviewed(mode: str) -> None:
    there = {
        path.relative_to(GOLDEN / mode).as_posix(): path.read_text(encoding="utf-8")
        for path in (GOLDEN / mode).rglob("*")
        if path.is_file()
    }
    assert {file.path: file.content.decode() for file in bundle(mode).files} == there


if __name__ == "__main__":
    for mode in ("on-prem", "edge"):
        shutil.rmtree(GOLDEN / mode, ignore_errors=True)
        for file in bundle(mode).files:
            place = GOLDEN / mode / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.content)
            place.chmod(0o755 if file.executable else 0o644)
