"""A change of what serves, with a gateway that does not come along."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from gitops_under_test import document

from sextant.app import swap as swap_module
from sextant.app.child import Child, Condition
from sextant.app.members import Member
from sextant.app.model_plan import EnginePlan, Placement
from sextant.app.placing import Ports
from sextant.app.plan import Overrides, make_plan
from sextant.app.remote_watch import RemoteWatch
from sextant.app.state import StateDir
from sextant.app.swap import Swap
from sextant.base.errors import SextantError
from sextant.spec.document import Deployment, parse_document
from sextant.spec.snapshot import ServedModel


def away(name: str) -> dict[str, object]:
    """A model that needs no process."""
    return {"name": name, "engine": {"kind": "remote", "base_url": f"https://{name}.example.com/v1"}}


def of(*names: str) -> Deployment:
    return parse_document(document(*map(away, names)), name="sextant.yaml")


class FakeCrew:
    """The supervisor, whose gateways take new routes as `takes` says; notes what it is asked."""

    def __init__(self, *takes: bool) -> None:
        self.takes = list(takes)
        self.done: list[str] = []
        self.members: list[Member] = []

    def on_change(self, _runner: Child | RemoteWatch) -> None: ...

    def enlist(self, member: Member) -> None:
        member.runner.condition = Condition("ready")
        self.members.append(member)
        self.done.append(f"start {member.name}")

    async def dismiss(self, members: Sequence[Member]) -> None:
        self.done += [f"end {member.name}" for member in members]

    def serve(self, models: tuple[ServedModel, ...]) -> int:
        self.done.append(f"serve {models[0].id}")
        return len(self.done)

    async def changed(self) -> None:
        await asyncio.sleep(0)

    async def took(self, version: int, timeout_s: float) -> bool:
        assert version == len(self.done) and timeout_s > 0
        return self.takes.pop(0)

    async def drained(self, engines: Sequence[EnginePlan], timeout_s: float) -> bool:
        self.done += [f"drained {engine.upstream_id}" for engine in engines]
        return True


async def changed(crew: FakeCrew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Swap:
    async def proven(_model: ServedModel, _member: Member) -> None: ...

    monkeypatch.setattr(swap_module, "_proven", proven)
    state = StateDir(tmp_path)
    plan = make_plan(of("old"), state, Overrides(), [Placement(created_s=1)])
    return Swap(crew, state, plan, Ports())


async def test_routes_that_one_gateway_does_not_take_go_back_and_no_request_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others may have sent requests to the new engine: it ends when they have."""
    crew = FakeCrew(False, True)
    swap = await changed(crew, tmp_path, monkeypatch)
    with pytest.raises(SextantError, match="did not take the new routes"):
        await swap.change(of("new"), lambda _: None)
    assert crew.done == ["start engine-new-0", "serve new", "serve old", "drained new-0", "end engine-new-0"]
    assert [one.place.created_s for one in swap.now.served] == [1]


async def test_routes_that_all_take_end_the_old_engine_with_its_last_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = FakeCrew(True)
    swap = await changed(crew, tmp_path, monkeypatch)
    await swap.change(of("new"), lambda _: None)
    assert crew.done == ["start engine-new-0", "serve new"]
    await asyncio.gather(*swap._draining)
    assert crew.done[2:] == ["drained old-0"]
