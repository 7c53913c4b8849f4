"""A whole `sextant up` whose engine runs elsewhere and is known by SPIFFE id, with its own Workload API."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spiffe_kit import DOMAIN, ENGINE, GATEWAY, Authority, Engine, WorkloadApi, workload_api

from stack_under_test import Stack, until
from stack_under_test import stack as own_stack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[WorkloadApi]:
    with workload_api(tmp_path) as made:
        yield made


@pytest.fixture
def engine(authority: Authority, tmp_path: Path) -> Iterator[Engine]:
    """In a loop of its own, since the test itself waits."""
    made = Engine(authority.svid(ENGINE), authority, tmp_path)
    ready = threading.Event()
    stops: list[Callable[[], object]] = []

    async def serve() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(over.set))
        async with made.running():
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield made
    stops[0]()
    thread.join(10)
    assert not thread.is_alive()


NAMELESS = "this gateway cannot show engines who asks; its log and status say why"


def document(folder: Path, engine: Engine, api: WorkloadApi, peer_id: str = ENGINE) -> Path:
    path = folder / "deployment.yaml"
    path.write_text(
        "apiVersion: sextant.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: t}\nspec:\n"
        f"  security: {{spiffe: {{trust_domain: {DOMAIN}, workload_api: '{api.address}'}}}}\n"
        "  model: {name: m}\n"
        f"  engine: {{kind: remote, base_url: '{engine.base_url}/v1', peer_id: '{peer_id}'}}\n"
    )
    return path


def readiness(made: Stack) -> tuple[int, list[str]]:
    answer = made.ask("GET", "/ready")
    return answer.status, json.loads(answer.body)["reasons"]


def ask(made: Stack) -> int:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    return made.ask("POST", "/v1/chat/completions", body).status


def metric(made: Stack, name: str) -> float | None:
    lines = made.ask("GET", "/metrics").body.decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), None)


def test_it_serves_rotates_and_outlives_the_workload_api(
    authority: Authority, api: WorkloadApi, engine: Engine, tmp_path: Path
) -> None:
    first = authority.svid(GATEWAY, lasts_s=3600)
    api.give(first, authority)
    with own_stack(document=document(tmp_path, engine, api)) as made:
        until(lambda: readiness(made) == (200, []), "it is ready")
        assert ask(made) == 200
        assert set(engine.callers) == {(GATEWAY, first.leaf.serial_number)}
        left_s = metric(made, "sextant_identity_expires_in_seconds")
        assert left_s is not None and 3000 < left_s <= 3600
        second = authority.svid(GATEWAY, lasts_s=6)
        api.give(second, authority)
        until(lambda: metric(made, "sextant_identity_rotations_total") == 1, "the gateway has the new one")
        assert ask(made) == 200
        assert engine.callers[-1] == (GATEWAY, second.leaf.serial_number)
        api.stop()
        _, reasons = until(
            lambda: (found := readiness(made))[0] == 503 and found, "the certificate has ended"
        )
        assert NAMELESS in reasons and not any(GATEWAY in each or api.address in each for each in reasons)
        said = until(
            lambda: "no identity" in (found := made.engine()["reason"]) and found, "the status says why"
        )
        assert said.startswith(f"no identity: the certificate of {GATEWAY} ended at")
        assert api.address in said, "and why there is no newer one"
        until(lambda: ask(made) == 503, "no request is sent any more")
        api.give(authority.svid(GATEWAY), authority)
        api.start()
        until(lambda: readiness(made) == (200, []), "the Workload API is back")
        until(lambda: ask(made) == 200, "it serves again")
        assert made.stop() == 0


def test_an_engine_that_is_somebody_else_is_never_ready(
    authority: Authority, api: WorkloadApi, engine: Engine, tmp_path: Path
) -> None:
    api.give(authority.svid(GATEWAY), authority)
    other = f"spiffe://{DOMAIN}/ns/sextant/sa/other"
    with own_stack(document=document(tmp_path, engine, api, peer_id=other)) as made:
        said = f"the peer is {ENGINE}, expected {other}"
        until(lambda: said in made.engine()["reason"], "the status says who answered")
        until(lambda: readiness(made) == (503, ["no engine is ready"]), "the gateway knows who it is")
        assert engine.requests == 0
        assert made.stop() == 0


def test_without_a_workload_api_it_waits_and_says_so(
    authority: Authority, api: WorkloadApi, engine: Engine, tmp_path: Path
) -> None:
    api.stop()
    with own_stack(document=document(tmp_path, engine, api)) as made:
        status, reasons = readiness(made)
        assert status == 503
        assert NAMELESS in reasons and not any(api.address in each for each in reasons)
        said = f"no identity: {api.address}: "
        until(lambda: made.engine()["reason"].startswith(said), "the status says why")
        assert made.processes()["identity"]["state"] == "ready"
        api.give(authority.svid(GATEWAY), authority)
        api.start()
        until(lambda: readiness(made) == (200, []), "it is ready")
        assert ask(made) == 200
        assert made.stop() == 0
