"""Store and forward between two real ledgers: lines that fail at any moment, ledgers that go back in time."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger_under_test import FlatRates, row
from sextant.app.courier import Centre, Courier, Refused, Unreachable
from sextant.app.forwarder_process import ForwarderSettings
from sextant.app.forwarding import FIRST_PAUSE_S, LONGEST_PAUSE_S, Forwarder
from sextant.app.outbox import Outbox
from sextant.base.errors import Misconfigured
from sextant.spec.ledger_wire import Delivery
from sextant.spec.sites import ForwardStatus, SiteAnswer, SiteBatch, read_forward_status
from sextant.store.ledger_check import check_books
from sextant.store.ledger_file import LedgerFile
from sextant.store.ledger_reading import ledger_view

RATES = FlatRates(3)
NOW_MS = 1_795_000_500_000


class CentreBooks:
    """A centre without its API, whose line fails as `faults` says: before it keeps a batch, or after."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = LedgerFile(path)
        self.faults: Iterator[str] = iter(())
        self.sent: list[int] = []

    def send(self, batch: SiteBatch) -> SiteAnswer:
        fault = next(self.faults, "")
        if fault == "cut":
            raise Unreachable("cut")
        self.sent.append(len(batch.rows))
        tenants = {"default": "plants"}
        answer = self.ledger.deliver(Delivery("shanghai", NOW_MS, batch.after_id, batch.rows, tenants), RATES)
        if fault == "ack lost":
            raise Unreachable("reset")
        return answer

    def rows(self) -> list[tuple[Any, ...]]:
        return booked(self.path, "site_usage")


def booked(path: Path, table: str = "usage") -> list[tuple[Any, ...]]:
    """What must be the same on both sides: ids, times, tokens, amounts."""
    with ledger_view(path) as view:
        return view.query(
            "SELECT request_id, tenant_id, project_id, key_id, model, outcome, started_ms, input_tokens, "
            f"output_tokens, cached_tokens, reasoning_tokens, cost_nano, list_nano FROM {table} ORDER BY 1"
        )


class Box:
    """A box with a ledger and a forwarder, which can be killed: nothing but its cursor outlives that."""

    def __init__(self, folder: Path, centre: CentreBooks) -> None:
        self.path = folder / "ledger.db"
        self.centre = centre
        self.ledger = LedgerFile(self.path, numbered=True)
        self.chance = random.Random(5)
        self.cursor = ForwardStatus()
        self.forwarder = self.started()

    def started(self) -> Forwarder:
        return Forwarder(
            Outbox(self.path), self.centre, status=self.cursor, now_ms=lambda: NOW_MS, chance=self.chance
        )

    def use(self, *names: str) -> None:
        self.ledger.append([row(name) for name in names], RATES)

    def settle(self, steps: int = 50) -> None:
        """Steps until nothing waits."""
        for _ in range(steps):
            self.forwarder.step()
            self.cursor = self.forwarder.status
            if not self.cursor.waiting_rows and not self.cursor.trouble:
                return
        raise AssertionError(f"still waiting: {self.cursor}")


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[CentreBooks]:
    made = CentreBooks(tmp_path / "centre.db")
    yield made
    made.ledger.close()
    assert check_books(made.path) == []


@pytest.fixture
def box(tmp_path: Path, centre: CentreBooks) -> Box:
    return Box(tmp_path, centre)


def test_what_waits_is_counted_while_the_line_is_cut_and_goes_when_it_is_back(box: Box) -> None:
    box.use("a", "b", "c")
    box.centre.faults = iter(["cut"] * 3)
    pauses = [box.forwarder.step() for _ in range(3)]
    assert all(0.5 * FIRST_PAUSE_S * 2**n <= pause <= FIRST_PAUSE_S * 2**n for n, pause in enumerate(pauses))
    status = box.forwarder.status
    assert (status.waiting_rows, status.waiting_since_ms, status.trouble) == (3, 1_795_000_000_000, "cut")
    box.settle()
    assert box.forwarder.status.trouble == "" and box.forwarder.status.success_ms == NOW_MS
    assert box.centre.rows() == booked(box.path)
    sent = len(box.centre.sent)
    box.settle()
    assert len(box.centre.sent) == sent, "nothing new, nothing sent"


def test_the_pause_has_a_bound(box: Box) -> None:
    box.centre.faults = iter(["cut"] * 40)
    pauses = [box.forwarder.step() for _ in range(40)]
    assert LONGEST_PAUSE_S / 2 <= pauses[-1] <= LONGEST_PAUSE_S


@pytest.mark.parametrize("seed", range(8))
def test_whatever_fails_when_both_sides_agree_in_the_end(box: Box, seed: int) -> None:
    """Lines cut, acknowledgements lost, forwarders killed before they noted the cursor, or who lost it."""
    chance = random.Random(seed)
    number = 0
    for _ in range(60):
        if chance.random() < 0.5:
            fresh = [f"r{number + n}" for n in range(chance.randint(1, 700))]
            number += len(fresh)
            box.use(*fresh)
        box.centre.faults = iter([chance.choice(("", "", "cut", "ack lost"))])
        box.forwarder.step()
        happens = chance.random()
        if happens < 0.2:  # killed before the cursor was noted
            box.forwarder = box.started()
        elif happens < 0.25:  # and its file is gone
            box.cursor = ForwardStatus()
            box.forwarder = box.started()
        else:
            box.cursor = box.forwarder.status
    box.centre.faults = iter(())
    box.settle()
    assert number > 0 and box.centre.rows() == booked(box.path)
    with ledger_view(box.centre.path) as view:
        assert view.query("SELECT count(*) FROM usage WHERE tenant_id = 'plants'") == [(number,)]


def test_a_centre_that_was_restored_gets_what_it_lost(box: Box, tmp_path: Path) -> None:
    box.use("a", "b")
    box.settle()
    box.centre.ledger.close()
    shutil.copy(box.centre.path, tmp_path / "old.db")
    box.centre.ledger = LedgerFile(box.centre.path)
    box.use("c", "d")
    box.settle()
    box.centre.ledger.close()
    shutil.copy(tmp_path / "old.db", box.centre.path)
    box.centre.ledger = LedgerFile(box.centre.path)
    box.use("e")
    box.settle()
    assert box.centre.rows() == booked(box.path) and len(box.centre.rows()) == 5


def test_a_box_that_was_restored_sends_what_it_did_since(box: Box, tmp_path: Path) -> None:
    box.use("a", "b")
    box.ledger.close()
    shutil.copy(box.path, tmp_path / "old.db")
    box.ledger = LedgerFile(box.path, numbered=True)
    box.use("lost_at_the_box")
    box.settle()
    box.ledger.close()
    shutil.copy(tmp_path / "old.db", box.path)
    box.ledger = LedgerFile(box.path, numbered=True)
    box.use("c", "d")
    box.settle()
    assert {values[0] for values in box.centre.rows()} == {"a", "b", "lost_at_the_box", "c", "d"}


def test_a_batch_that_is_refused_for_its_content_is_cut_to_the_row_at_fault_which_waits(box: Box) -> None:
    class Picky(CentreBooks):
        def send(self, batch: SiteBatch) -> SiteAnswer:
            if any(one.request_id == "bad" for one in batch.rows):
                raise Refused("the centre answers 422: bad", by_content=True)
            return super().send(batch)

    picky = Picky(box.path.with_name("picky.db"))
    box.centre = picky
    box.forwarder = box.started()
    box.use("a", "b", "c", "bad", "d")
    for _ in range(20):
        box.forwarder.step()
    assert [values[0] for values in picky.rows()] == ["a", "b", "c"]
    assert box.forwarder.status.waiting_rows == 2 and "bad" in box.forwarder.status.trouble
    picky.ledger.close()


def test_a_ledger_that_is_away_is_trouble_and_no_end(tmp_path: Path, centre: CentreBooks) -> None:
    forwarder = Forwarder(
        Outbox(tmp_path / "none.db"),
        centre,
        status=ForwardStatus(7, "r7"),
        now_ms=lambda: NOW_MS,
        chance=random.Random(1),
    )
    assert forwarder.step() > 0
    assert "cannot read the ledger" in forwarder.status.trouble and forwarder.status.number == 7


# the line itself

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], Courier]]:
    """A server that always answers the same."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> Courier:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                assert self.headers["authorization"] == "Bearer sxsite-1"
                assert self.path == "/centre/v1/sites/plant-7/usage"
                self.send_response(status)
                self.send_header("location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/centre"
        return Courier(Centre(url, "plant-7"), lambda: "sxsite-1")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [302, 429, 500, 503, 204])
def test_an_answer_that_is_none_is_for_later(serve: Callable[[int, bytes], Courier], status: int) -> None:
    with pytest.raises(Unreachable, match=str(status)):
        serve(status, b"").send(SiteBatch())


@pytest.mark.parametrize("body", [b"", b"{", b'{"through": "x"}', b"<html>"])
def test_a_garbled_acknowledgement_is_none(serve: Callable[[int, bytes], Courier], body: bytes) -> None:
    with pytest.raises(Unreachable, match="cannot be read"):
        serve(200, body).send(SiteBatch())


@pytest.mark.parametrize(("status", "by_content"), [(401, False), (403, False), (404, False), (422, True)])
def test_a_refusal_says_what_is_at_fault(
    serve: Callable[[int, bytes], Courier], status: int, by_content: bool
) -> None:
    said = json.dumps({"error": {"message": "not so", "code": "x"}}).encode()
    with pytest.raises(Refused, match=f"{status}: (not so|it does not know)") as refused:
        serve(status, said).send(SiteBatch())
    assert refused.value.by_content is by_content


def test_the_process_shows_that_it_lives_before_a_line_that_swallows_packets_answers(tmp_path: Path) -> None:
    """Else a box whose line is dead would never be ready, and the supervisor would give up its start."""
    LedgerFile(tmp_path / "ledger.db", numbered=True).close()
    secret = tmp_path / "secret"
    secret.write_text("sxsite-1")
    secret.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        settings = ForwarderSettings(
            ledger_db=str(tmp_path / "ledger.db"),
            centre=Centre(f"http://127.0.0.1:{listener.getsockname()[1]}", "plant-7"),
            credential_ref=f"file:{secret}",
            cursor_file=str(tmp_path / "cursor.json"),
            status_file=str(tmp_path / "status.json"),
        )
        file = tmp_path / "settings.json"
        file.write_bytes(msgspec.json.encode(settings))
        command = (sys.executable, "-m", "sextant.app.forwarder_process", "--settings", str(file))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            with listener.accept()[0]:  # asked, and never answered
                assert read_forward_status(tmp_path / "status.json") is not None
        finally:
            process.kill()
            process.wait()


def test_a_credential_that_no_header_can_carry_is_told() -> None:
    with pytest.raises(Refused, match="credential"):
        Courier(Centre("http://127.0.0.1:1", "s"), lambda: "密").send(SiteBatch())


def test_a_missing_credential_and_a_dead_centre_are_told() -> None:
    def missing() -> str:
        raise Misconfigured("no credential")

    with pytest.raises(Refused, match="no credential"):
        Courier(Centre("http://127.0.0.1:1", "s"), missing).send(SiteBatch())
    with pytest.raises(Unreachable, match="refused"):
        Courier(Centre("http://127.0.0.1:1", "s"), lambda: "x").send(SiteBatch())
