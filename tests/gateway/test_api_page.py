"""The API page names every path, status and bound that the code has."""

from __future__ import annotations

import re
from pathlib import Path

from fake_governor import FakeGovernor

from sextant.base import errors
from sextant.gateway.app import DIALECTS, GatewayApp, build_handler
from sextant.gateway.failures import status_of
from sextant.spec.snapshot import GatewaySettings
from sextant.spec.wire import chat
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool

PAGE = (Path(__file__).parents[2] / "docs/reference/api.md").read_text()


def app() -> GatewayApp:
    settings = GatewaySettings("", 0, "", "", "", access_log=False)
    registry = Registry()
    return build_handler(settings, FakeGovernor(), Pool(settings.limits, registry), registry)


def test_every_path_is_on_the_page_and_no_other() -> None:
    table = PAGE.split("## Paths")[1].split("##")[0]
    named = set(re.findall(r"`(/[^`]*)`", table))
    served = {path for _, _, where in DIALECTS for path in where} | set(app()._guarded) | set(app()._open)
    assert named == served


def test_every_status_of_the_error_tree_is_on_the_page() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    statuses = {status_of(kind("x")) for kind in kinds if issubclass(kind, errors.SextantError)}
    table = PAGE.split("## Every answer")[1].split("##")[0]
    explained = {
        int(number) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.M) for number in row.split(",")
    }
    assert statuses - {405} <= explained


def test_the_bounds_on_the_page_are_those_of_the_schema() -> None:
    assert f"up to {chat.MAX_STOPS} |" in PAGE
    assert f"up to {chat.MAX_TOOLS} functions" in PAGE
    assert f"1 to {chat.MAX_CHOICES} " in PAGE
    assert f"0 to {chat.MAX_TOP_LOGPROBS}," in PAGE
