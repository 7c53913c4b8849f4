"""Several engines and models from one document: each serves, a dead one touches no other, nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sextant.app.plan import bundled_model_path
from stack_under_test import Answer, Stack, alive, sextant, stack, until

pytestmark = pytest.mark.slow

SERVER = [sys.executable, str(Path(__file__).with_name("llama_server.py"))]


def document(folder: Path, *models: dict[str, Any]) -> Path:
    file = folder / "models.yaml"
    written = {
        "apiVersion": "sextant.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "several"},
        "spec": {"models": list(models)},
    }
    file.write_text(json.dumps(written))
    return file


def launched(name: str, *args: str, **engine: Any) -> dict[str, Any]:
    source = str(bundled_model_path("sextant-nano"))
    given = {"kind": "llamacpp", "command": SERVER, "args": list(args), "stop_timeout_s": 1.0, **engine}
    return {"name": name, "source": source, "engine": given}


NANO: dict[str, Any] = {"name": "sextant-nano", "engine": {"kind": "embedded", "slots": 1}}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Three models: the embedded engine, a launched one that forks and is stubborn, one that never starts."""
    folder = tmp_path_factory.mktemp("several")
    broken = launched("broken", command=[sys.executable, "-c", "raise ValueError('no such quantisation')"])
    file = document(folder, NANO, launched("other", "--fork", "--stubborn"), broken)
    with stack(document=file) as made:
        yield made


def test_each_model_serves_and_the_broken_one_says_why(several: Stack) -> None:
    assert "engine-broken-0 waiting: exit status 1: ValueError: no such quantisation" in several.said()
    assert "not ready yet: engine-broken-0: " in several.said()
    for model in ("sextant-nano", "other"):
        answer = several.chat("What is 2 + 2?", model=model, max_tokens=64)
        assert answer.status == 200, answer.body
        assert answer.json()["model"] == model
    refused = several.chat(model="broken")
    assert refused.status == 503
    assert "broken" in refused.json()["error"]["message"]
    assert several.ask("GET", "/ready").status == 200
    listed = [model["id"] for model in several.ask("GET", "/v1/models").json()["data"]]
    assert listed == ["sextant-nano", "other", "broken"]


def test_engine_metrics_are_served_under_our_names(several: Stack) -> None:
    line = 'sextant_engine_generated_tokens_total{model="other",upstream="other-0"}'

    def counted() -> bool:
        text = several.ask("GET", "/metrics", port=several.control_port).body.decode()
        return any(row.startswith(line) and float(row.rpartition(" ")[2]) > 0 for row in text.splitlines())

    assert several.chat(model="other").status == 200
    until(counted, "the engine's own count is served")
    for port in (None, several.control_port):
        assert b"_created" not in several.ask("GET", "/metrics", port=port).body


def test_a_dead_engine_touches_no_other_and_comes_back(several: Stack) -> None:
    until(lambda: several.chat(model="other").status == 200, "the launched engine serves")
    before = several.processes()["engine-other-0"]
    for pid in [before["pid"], *below(before["pid"])][::-1]:
        with contextlib.suppress(ProcessLookupError):  # a parent may end by itself when its child has
            os.kill(pid, signal.SIGKILL)
    while several.processes()["engine-other-0"]["pid"] == before["pid"]:
        assert several.chat().status == 200
    until(lambda: several.chat(model="other").status == 200, "it was started again")
    assert several.processes()["engine-other-0"]["restarts"] > before["restarts"]
    assert several.processes()["engine-sextant-nano-0"]["restarts"] == 0


def test_a_stop_leaves_nothing_of_a_stubborn_engine(several: Stack) -> None:
    tree = everything(several)
    assert len(below(several.processes()["engine-other-0"]["pid"])) >= 3
    assert several.stop() == 0
    until(lambda: not any(map(alive, tree)), "nothing is left")


def test_a_killed_supervisor_leaves_nothing_of_a_stubborn_engine(tmp_path: Path) -> None:
    with stack(document=document(tmp_path, launched("other", "--fork", "--stubborn"))) as made:
        assert made.chat(model="other").status == 200
        tree = everything(made)
        assert made.process is not None
        os.kill(made.process.pid, signal.SIGKILL)
        until(lambda: not any(map(alive, tree)), "nothing is left")


def test_two_models_of_one_name_are_refused_before_anything_starts(tmp_path: Path) -> None:
    done = sextant("up", str(document(tmp_path, NANO, NANO)), f"--state={tmp_path / 's'}")
    assert done.returncode == 1
    assert "`sextant-nano` is the name of another model already" in done.stderr
    assert not (tmp_path / "s").exists()


def test_when_no_engine_starts_the_start_fails_with_each_reason(tmp_path: Path) -> None:
    broken = [sys.executable, "-c", "raise ValueError('no weights')"]
    file = document(tmp_path, launched("one", command=broken), launched("two", command=["no-such-program"]))
    done = sextant("up", str(file), f"--state={tmp_path / 's'}")
    assert done.returncode == 1
    assert "no engine starts" in done.stderr
    assert "engine-one-0" in done.stderr and "ValueError: no weights" in done.stderr
    assert "no-such-program" in done.stderr


def test_status_says_that_nothing_is_served(tmp_path: Path) -> None:
    with stack() as made:
        for _ in range(5):  # a key may be used as soon as it is printed
            key = json.loads(sextant("key", "create", "--json", f"--state={made.root}").stdout)["key"]
            assert made.ask("GET", "/v1/models", Authorization=f"Bearer {key}").status == 200
        assert sextant("status", f"--state={made.root}").returncode == 0
        ledger = made.processes()["ledger"]["pid"]
        os.kill(ledger, signal.SIGSTOP)
        try:
            body = {"model": "sextant-nano", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
            until(
                lambda: made.ask("POST", "/v1/chat/completions", body).status == 503, "the ledger is missed"
            )
            done = sextant("status", f"--state={made.root}")
            assert done.returncode == 1
            assert "not ready" in done.stdout and "usage cannot be made durable" in done.stdout
        finally:
            os.kill(ledger, signal.SIGCONT)


def test_a_taken_port_is_told_before_anything_is_converted(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = sextant("up", f"--model={folder}", f"--port={port}", f"--state={tmp_path / 's'}")
    assert done.returncode == 1
    assert f"port {port}" in done.stderr


def everything(made: Stack) -> list[int]:
    pids = made.pids()
    return [*pids, *(child for pid in pids for child in below(pid))]


def below(pid: int) -> list[int]:
    """All living processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, heads = [], [pid]
    while heads:
        children = parents.get(heads.pop(), [])
        found += children
        heads += children
    return found


def test_a_tier_has_its_pool_and_a_tenant_its_own_model(tmp_path: Path) -> None:
    """Two engines of one name, one of them the professional tier's; a model that one enterprise alone sees.
    Each answers for its own tenants, and the shared engine's death leaves the pool's tenants served."""
    pooled = {**launched("sextant-nano"), "pool": "professional"}
    own = {**launched("bank-tuned"), "tenants": ["bank"]}
    with stack(document=document(tmp_path, NANO, pooled, own)) as up:
        keys = {}
        for tenant, tier in (("shop", "free"), ("studio", "professional"), ("bank", "enterprise")):
            asked = {"id": tenant, "tier": tier, "billing": "free"}
            assert up.ask("POST", "/v1/tenants", asked, port=up.control_port).status == 201
            made = up.ask("POST", "/v1/keys", {"name": "k", "tenant_id": tenant}, port=up.control_port)
            keys[tenant] = made.json()["key"]

        def asked_by(tenant: str, method: str, path: str, body: Any = None) -> Answer:
            return up.ask(method, path, body, Authorization=f"Bearer {keys[tenant]}")

        def status(tenant: str, model: str) -> int:
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
            return asked_by(tenant, "POST", "/v1/chat/completions", body).status

        def models(tenant: str) -> list[str]:
            listed = asked_by(tenant, "GET", "/v1/models").json()
            return [model["id"] for model in listed.get("data", ())]

        until(lambda: models("bank") == ["sextant-nano", "bank-tuned"], "the keys are known")
        assert models("shop") == models("studio") == ["sextant-nano"]
        assert status("shop", "bank-tuned") == status("studio", "bank-tuned") == 404
        assert [status(tenant, "sextant-nano") for tenant in keys] == [200, 200, 200]
        assert status("bank", "bank-tuned") == 200
        shared = up.processes()["engine-sextant-nano-0"]
        os.kill(shared["pid"], signal.SIGSTOP)
        try:
            assert status("studio", "sextant-nano") == 200
        finally:
            os.kill(shared["pid"], signal.SIGCONT)


def test_both_keepers_killed_in_the_same_moment_leave_nothing(tmp_path: Path) -> None:
    with stack(document=document(tmp_path, launched("other", "--fork", "--stubborn"))) as made:
        outer = made.processes()["engine-other-0"]["pid"]
        inner, *engine = below(outer)
        assert len(engine) >= 2
        for number in (signal.SIGSTOP, signal.SIGKILL):  # neither notices the other's end
            for pid in (outer, inner):
                os.kill(pid, number)
        until(lambda: not any(map(alive, engine)), "what the engine had started is gone")
        until(lambda: made.chat(model="other").status == 200, "it was started again", 60)
        assert made.processes()["engine-other-0"]["restarts"] == 1
        assert made.process is not None
        left = [pid for pid in (outer, inner, *engine) if pid in below(made.process.pid)]
        assert left == []  # nor dead that nobody has collected
