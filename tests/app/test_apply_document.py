"""`sextant apply FILE` on a stack under load: nothing is lost, and what fails changes nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gitops_under_test import NANO, copy_of_nano, document, model, wanted

from answers_under_load import Client, check_rows, load, usage_rows
from sextant.app.applying import apply_document
from sextant.app.events import Event
from sextant.app.state import StateDir
from sextant.base.errors import Misconfigured, SextantError
from sextant.store.ledger_reading import ledger_view
from stack_under_test import Stack, alive, sextant, stack, until

pytestmark = pytest.mark.slow


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Stack]:
    file = tmp_path / "sextant.yaml"
    file.write_text(document(model("nano-1.0.0")))
    with stack(document=file) as made:
        yield made


def engines(up: Stack) -> set[str]:
    return {name for name in up.processes() if name.startswith("engine-")}


def served(up: Stack) -> list[str]:
    """The models that gateways may route to, aliases aside."""
    return [one["id"] for one in json.loads((up.root / "run" / "routes.json").read_bytes())["models"]]


def models_in_ledger(up: Stack) -> list[str]:
    """Which model each row was made by, in order."""
    with ledger_view(up.root / "ledger.db") as view:
        return [row[0] for row in view.query("SELECT model FROM usage ORDER BY request_id")]


def test_another_model_takes_over_under_load_and_no_request_is_lost(up: Stack, tmp_path: Path) -> None:
    file = tmp_path / "next.yaml"
    file.write_text(document(model("nano-1.1.0", copy_of_nano(tmp_path, "next.gguf"))))
    old = up.processes()["engine-nano-1.0.0-0"]["pid"]
    with load(up, [Client(1), Client(2), Client(3, output_tokens_max=300)]) as seen:
        until(lambda: len(models_in_ledger(up)) > 3, "the old model serves")
        done = sextant("apply", str(file), f"--state={up.root}")
        assert done.returncode == 0, done.stderr
        until(lambda: "nano-1.1.0" in models_in_ledger(up), "the new model serves")
        until(lambda: not alive(old), "the old engine has ended")
        until(lambda: engines(up) == {"engine-nano-1.1.0-0"}, "it is forgotten")
    assert (seen.refused, seen.broken) == (0, 0), seen.statuses
    check_rows(seen, usage_rows(up.root / "ledger.db", "ok"))
    order = models_in_ledger(up)
    assert set(order) == {"nano-1.0.0", "nano-1.1.0"}
    assert served(up) == ["nano-1.1.0"]
    assert "Switched in" in done.stdout and "followed is applied." in done.stdout
    assert up.status()["applied"]["origin"] == str(file)
    shown = sextant("status", f"--state={up.root}")
    assert shown.returncode == 0
    assert f"Applied     followed, {file}" in shown.stdout


def test_a_stream_on_the_old_engine_ends_whole_and_only_then_the_engine(up: Stack, tmp_path: Path) -> None:
    old = up.processes()["engine-nano-1.0.0-0"]["pid"]
    whole: list[bytes] = []
    body = {
        "model": "sextant-nano",
        "stream": True,
        "messages": [{"role": "user", "content": "sort: pear apple fig"}],
    }
    asking = threading.Thread(
        target=lambda: whole.append(up.ask("POST", "/v1/chat/completions", body).body), daemon=True
    )
    os.kill(old, signal.SIGSTOP)  # its answer takes as long as it must
    try:
        asking.start()
        line = 'sextant_gateway_upstream_requests{model="nano-1.0.0",upstream="nano-1.0.0-0"} 1.0'
        until(lambda: line in up.ask("GET", "/metrics").body.decode(), "the stream is under way")
        apply_document(StateDir(up.root), wanted(document(model("nano-2.0.0")), tmp_path), lambda _: None)
        assert served(up) == ["nano-2.0.0"]
        assert up.chat().status == 200
        assert not whole and alive(old)
        assert up.processes()["engine-nano-1.0.0-0"]["serves"] is False
        shown = sextant("status", f"--state={up.root}")
        assert shown.returncode == 0
        assert "(takes no requests)" in shown.stdout
    finally:
        os.kill(old, signal.SIGCONT)
    asking.join(30)
    assert whole[0].rstrip().endswith(b"data: [DONE]")
    until(lambda: not alive(old), "the old engine ends after its last stream")
    until(lambda: engines(up) == {"engine-nano-2.0.0-0"}, "nothing is left of it")


def test_two_versions_side_by_side_and_the_engine_that_stays_is_not_touched(
    up: Stack, tmp_path: Path
) -> None:
    before = up.processes()["engine-nano-1.0.0-0"]
    state = StateDir(up.root)
    both = document(model("nano-1.0.0"), model("nano-1.1.0", aliases=("nano-next",)))
    apply_document(state, wanted(both, tmp_path), lambda _: None)
    assert served(up) == ["nano-1.0.0", "nano-1.1.0"]
    assert up.chat(model="nano-next").status == 200
    assert up.chat(model="sextant-nano").status == 200
    assert models_in_ledger(up) == ["nano-1.1.0", "nano-1.0.0"]
    renamed = document(model("nano-1.0.0", aliases=("plain",)), model("nano-1.1.0"))
    apply_document(state, wanted(renamed, tmp_path), lambda _: None)
    assert up.chat(model="plain").status == 200
    after = up.processes()["engine-nano-1.0.0-0"]
    assert (after["pid"], after["restarts"]) == (before["pid"], 0)
    assert models_in_ledger(up)[2:] == ["nano-1.0.0"]


def damaged(tmp_path: Path) -> str:
    data = NANO.read_bytes()
    file = tmp_path / "damaged.gguf"
    file.write_bytes(data[: len(data) // 2])
    return document(model("damaged", file))


def wrong_inside(tmp_path: Path) -> str:
    """A file whose head is right and whose engine ends before it serves."""
    broken = [*("python3", "-c"), "raise ValueError('no such quantisation')"]
    entry = {**model("broken"), "engine": {"kind": "llamacpp", "command": broken}}
    return document(entry)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lambda _: "spec: [", "not valid YAML"),
        (lambda folder: document(model("gone", folder / "gone.gguf")), "gone.gguf"),
        (damaged, "damaged.gguf"),
        (wrong_inside, "no such quantisation"),
        (lambda _: document(model("nano-1.0.0"), gateway={"port": 4321}), "spec.gateway.port"),
        (lambda _: document(model("nano-1.0.0"), limits={"url": "redis://127.0.0.1:1"}), "spec.limits"),
    ],
    ids=["yaml", "no file", "damaged file", "engine that ends", "needs a restart", "another store of limits"],
)
def test_what_cannot_be_served_changes_nothing(up: Stack, tmp_path: Path, text: object, said: str) -> None:
    pids = {name: process["pid"] for name, process in up.processes().items()}
    told: list[Event] = []
    with load(up, [Client(1)]) as seen:
        until(lambda: len(models_in_ledger(up)) > 1, "it serves")
        with pytest.raises(SextantError, match=said):
            apply_document(StateDir(up.root), wanted(text(tmp_path), tmp_path), told.append)  # type: ignore[operator]
        until(lambda: engines(up) == {"engine-nano-1.0.0-0"}, "what was tried has ended")
    assert (seen.refused, seen.broken) == (0, 0), seen.statuses
    assert {name: process["pid"] for name, process in up.processes().items()} == pids
    assert served(up) == ["nano-1.0.0"]
    assert "applied" not in up.status() or up.status()["applied"] is None


def test_what_was_applied_last_starts_again(up: Stack, tmp_path: Path) -> None:
    apply_document(StateDir(up.root), wanted(document(model("nano-3.0.0")), tmp_path), lambda _: None)
    assert up.stop() == 0
    again = Stack(up.root, "--last-applied", document=tmp_path / "sextant.yaml")
    try:
        again.start().wait_serving()
        assert served(again) == ["nano-3.0.0"]
    finally:
        again.kill()


def test_nothing_runs(tmp_path: Path) -> None:
    file = tmp_path / "sextant.yaml"
    file.write_text(document(model("nano-1.0.0")))
    done = sextant("apply", str(file), f"--state={tmp_path / 'state'}")
    assert done.returncode == 3
    assert "sextant up" in done.stderr
    with pytest.raises(Misconfigured, match="nothing runs"):
        apply_document(StateDir(tmp_path / "state"), wanted(file.read_text(), tmp_path), lambda _: None)


def test_a_stop_in_the_middle_of_a_change_leaves_nothing(up: Stack, tmp_path: Path) -> None:
    hangs = ["python3", "-c", "import time; time.sleep(600)"]
    text = document({**model("slow"), "engine": {"kind": "llamacpp", "command": hangs}})
    failed: list[str] = []

    def ask() -> None:
        try:
            apply_document(StateDir(up.root), wanted(text, tmp_path), lambda _: None)
        except SextantError as error:
            failed.append(error.message)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    until(lambda: "engine-slow-0" in up.processes(), "the new engine is being tried")
    pids = up.pids()
    assert up.stop() == 0
    asking.join(10)
    assert failed
    assert not any(alive(pid) for pid in pids)


def test_a_document_may_name_the_port_that_a_flag_gave(up: Stack, tmp_path: Path) -> None:
    """The stack was started with `--port` and `--control-port`; its document names neither."""
    ports = {"gateway": {"port": up.port}, "control": {"port": up.control_port}}
    file = tmp_path / "ports.yaml"
    file.write_text(document(model("nano-1.0.0", aliases=("named",)), **ports))
    done = sextant("apply", str(file), f"--state={up.root}")
    assert done.returncode == 0, done.stderr
    assert up.chat(model="named").status == 200
    file.write_text(document(model("nano-1.0.0"), gateway={"port": up.control_port}))
    done = sextant("apply", str(file), f"--state={up.root}")
    assert done.returncode == 1
    assert f"spec.gateway.port ({up.port} is in use, by --port) changed" in done.stderr
    file.write_text(document(model("nano-1.0.0", aliases=("plain",))))
    assert sextant("apply", str(file), f"--state={up.root}").returncode == 0
