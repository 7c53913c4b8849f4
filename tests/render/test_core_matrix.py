"""The capability matrix and the renderers agree: what is not refused is rendered, and rendered whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml
from tests.render.orders import DISTILLED, EMBEDDED, document

from sextant.catalog import arguments
from sextant.operations.bundles import order_of
from sextant.render import MODES, render
from sextant.spec.document import parse_document
from sextant.spec.render_data import load_facts, load_images
from sextant.spec.rendering import Cell, Order

SITES = {
    "nvidia": "L40S",
    "amd": "MI300X",
    "intel": "gaudi3",
    "huawei": "ascend-910b",
    "cpu": "cpu-server",
}
REMOTE = {
    "model": {"name": "deepseek-chat"},
    "engine": {"kind": "remote", "base_url": "https://api.example.com/v1", "api_key": "env:KEY"},
}
LOCK = f"{load_images('1').known['vllm-intel'].tagged}@sha256:{'a' * 64}\n"
CELLS = [cell for cell in load_facts().cells if cell.proof != "unsupported"]


def ordered(cell: Cell) -> Order:
    """What somebody asks for who wants exactly that cell."""
    spec: dict[str, Any] = {"embedded": EMBEDDED, "remote": REMOTE}.get(cell.engine, {})
    if not spec:
        site = "jetson-agx-orin" if (cell.vendor, cell.mode) == ("nvidia", "edge") else SITES[cell.vendor]
        sites = [{"name": "a", "accelerators": [{"name": site, "count": 8}]}]
        spec = {"model": DISTILLED["model"], "engine": {"kind": cell.engine}, "sites": sites}
        spec["workload"] = {"requests_per_s": 0.01, "input_tokens": 200, "output_tokens": 100}
    made = order_of(parse_document(document(cell.mode, **wanted_by(cell.mode, spec))))
    return msgspec.structs.replace(made, images=load_images(made.version, lock=LOCK, lock_name="lock"))


def wanted_by(mode: str, spec: dict[str, Any]) -> dict[str, Any]:
    """With what that mode cannot do without."""
    if mode == "saas":
        portal = {"url": "https://portal.example.com"}
        return {**spec, "delivery": {"ingress_host": "llm.example.com"}, "portal": portal}
    if mode != "hybrid":
        return spec
    there = spec.get("sites", [{}])[0].get("accelerators", [])
    sites = [
        {"name": kind, "kind": kind, "address": f"{kind}.example.com", "accelerators": there}
        for kind in ("private", "public")
    ]
    store = {
        "url": "postgresql://sextant@pg-a.example.com,pg-b.example.com/sextant"
        "?target_session_attrs=read-write&sslmode=verify-full",
        "password": "env:STORE",
    }
    limits = {"url": "rediss://redis.example.com:6379", "password": "env:LIMITS"}
    return {**spec, "sites": sites, "store": store, "limits": limits}


def read_whole(order: Order) -> Iterator[str]:
    """Every file of the bundle, read as what its name says."""
    bundle = render(order)
    assert [file.path for file in bundle.files] == sorted(file.path for file in bundle.files)
    for steps in (bundle.install, bundle.verify, bundle.upgrade, bundle.rollback, bundle.uninstall):
        assert steps
    assert bundle.diagram
    for file in bundle.files:
        if file.path.endswith((".yaml", ".yml")):
            list(yaml.safe_load_all(file.content))
        elif file.path.endswith(".json"):
            json.loads(file.content)
        yield file.content.decode()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MODES if any(cell.mode == mode for cell in CELLS)])
def test_every_cell_that_is_not_refused_is_rendered(mode: str) -> None:
    for cell in CELLS:
        if cell.mode != mode:
            continue
        order = ordered(cell)
        texts = "\n".join(read_whole(order))
        assert ":latest\n" not in texts, cell
        (served,) = order.served
        if cell.engine not in ("embedded", "remote"):
            made = arguments.command(arguments.serving_of(order, served, model_path="/m", in_container=True))
            for name in made.secret_env:
                assert name in texts or order.mode in ("on-prem", "edge"), cell
