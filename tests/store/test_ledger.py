"""The ledger over its socket: good and bad clients, two of them, full and slow disks, its own end."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from ledger_under_test import RawClient, TestDisk, row, serving, stored
from sextant.base.errors import Misconfigured
from sextant.spec.ledger_wire import (
    FRAME_BYTES_MAX,
    WIRE_VERSION,
    Ack,
    Batch,
    FrameBuffer,
    Hello,
    Post,
    Refusal,
    Welcome,
    frame,
)
from sextant.spec.policy import Standing
from sextant.spec.transfer import Transfer
from sextant.store import ledger
from sextant.store.ledger import LedgerServer, run_ledger


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "ledger.sock"


@pytest.fixture
def server(db_path: Path, socket_path: Path) -> Iterator[LedgerServer]:
    with serving(db_path, socket_path) as running:
        yield running


# the wire


def test_the_wire_carries_exactly_these_fields() -> None:
    """Changed on purpose? Then raise WIRE_VERSION too, and change this."""
    assert WIRE_VERSION == 3
    packed = msgspec.msgpack.encode(["batch", 7, 3, [row("r1")]])
    assert msgspec.msgpack.decode(packed, type=Batch) == Batch(7, 3, [row("r1")])
    assert msgspec.structs.astuple(row("r1")) == (
        "r1", "default", "", "key_a", "nano", "chat.completions", "ok",
        1_795_000_000_000, 1200, 80, 100, 20, 64, 5, False,
    )  # fmt: skip
    transfer = Transfer("t1", "top-up", "cash", "tenant:a:prepaid", 5, "USD", 17, "r1", "note", 18)
    assert msgspec.json.encode(["post", 1, [transfer]]) == msgspec.json.encode(Post(1, [transfer]))
    assert msgspec.structs.astuple(transfer)[1:6] == ("top-up", "cash", "tenant:a:prepaid", 5, "USD")
    standing = Standing("tenant:a", 1, 20261122, 2, 202611, 3, 4, 5, 6)
    assert msgspec.json.decode(msgspec.json.encode(Ack(9, [standing]))) == [
        "ack", 9, [["tenant:a", 1, 20261122, 2, 202611, 3, 4, 5, 6]],
    ]  # fmt: skip


def test_frames_are_found_at_every_split() -> None:
    stream = frame(b"one") + frame(b"two" * 100) + frame(b"3")
    whole = FrameBuffer().feed(stream)
    assert whole == [b"one", b"two" * 100, b"3"]
    for split in range(len(stream)):
        frames = FrameBuffer()
        assert frames.feed(stream[:split]) + frames.feed(stream[split:]) == whole


# one client


def test_an_acknowledged_batch_is_in_the_file(server: LedgerServer, db_path: Path, socket_path: Path) -> None:
    with RawClient(socket_path) as client:
        client.send_rows(1, [row("r1"), row("r2", outcome="client_closed")])
        assert client.receive_seq() == 1
        assert stored(db_path)["r2"] == msgspec.structs.astuple(row("r2", outcome="client_closed"))
        client.send_rows(2, [row("r2"), row("r3")])
        assert client.receive_seq() == 2
    assert set(stored(db_path)) == {"r1", "r2", "r3"}


def test_several_batches_in_one_read_are_all_acknowledged_in_order(
    server: LedgerServer, db_path: Path, socket_path: Path
) -> None:
    with RawClient(socket_path) as client:
        batches = [["batch", seq, 0, [row(f"r{seq}")]] for seq in range(1, 51)]
        client.socket.sendall(b"".join(frame(msgspec.msgpack.encode(batch)) for batch in batches))
        assert [client.receive_seq() for _ in batches] == [*range(1, 51)]
    assert len(stored(db_path)) == 50


def test_a_batch_that_arrives_byte_by_byte_is_kept(
    server: LedgerServer, db_path: Path, socket_path: Path
) -> None:
    with RawClient(socket_path) as client:
        for byte in frame(msgspec.msgpack.encode(["batch", 1, 0, [row("r1")]])):
            client.socket.sendall(bytes([byte]))
        assert client.receive_seq() == 1
    assert set(stored(db_path)) == {"r1"}


def test_a_half_written_batch_is_dropped_whole(
    server: LedgerServer, db_path: Path, socket_path: Path
) -> None:
    with RawClient(socket_path) as client:
        whole = frame(msgspec.msgpack.encode(["batch", 1, 0, [row("r1"), row("r2")]]))
        client.socket.sendall(whole[: len(whole) // 2])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.receive() is None
    assert stored(db_path) == {}


def test_an_empty_batch_is_acknowledged(server: LedgerServer, socket_path: Path) -> None:
    with RawClient(socket_path) as client:
        client.send_rows(1, [])
        assert client.receive_seq() == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00\x00\x00\x00",
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big") + b"x",
        frame(b"\xc1not msgpack"),
        frame(msgspec.msgpack.encode({"a": "map"})),
        frame(msgspec.msgpack.encode(["unknown", 1])),
        frame(msgspec.msgpack.encode(["batch", "one", 0, []])),
        frame(msgspec.msgpack.encode(["batch", 1, 0, [["too", "short"]]])),
        frame(msgspec.msgpack.encode(["batch", 1, 0, [["wrong types"] * 15]])),
        frame(msgspec.msgpack.encode(["batch", 1, 0, []]) + b"trailing"),
    ],
)
def test_garbage_is_refused_and_harms_nobody_else(
    server: LedgerServer, db_path: Path, socket_path: Path, garbage: bytes
) -> None:
    with RawClient(socket_path) as good, RawClient(socket_path) as bad:
        good.send_rows(1, [row("r1")])
        bad.socket.sendall(garbage)
        refusal = bad.receive()
        assert isinstance(refusal, Refusal)
        assert (refusal.seq, refusal.retryable) == (0, False)
        assert bad.receive() is None
        assert good.receive_seq() == 1
        good.send_rows(2, [row("r2")])
        assert good.receive_seq() == 2
    assert set(stored(db_path)) == {"r1", "r2"}


def test_another_protocol_version_is_told_so(server: LedgerServer, socket_path: Path) -> None:
    with RawClient(socket_path, greet=False) as client:
        client.send(Hello(WIRE_VERSION + 1, "from the future"))
        refusal = client.receive()
        assert isinstance(refusal, Refusal)
        assert "version" in refusal.reason
        assert client.receive() is None


def test_a_batch_before_the_hello_is_refused(server: LedgerServer, db_path: Path, socket_path: Path) -> None:
    with RawClient(socket_path, greet=False) as client:
        client.send_rows(1, [row("r1")])
        assert isinstance(client.receive(), Refusal)
        assert client.receive() is None
    assert stored(db_path) == {}


def test_a_row_that_fits_no_column_refuses_its_batch_alone(
    server: LedgerServer, db_path: Path, socket_path: Path
) -> None:
    with RawClient(socket_path) as client:
        client.send_rows(1, [row("r1"), row("r2", output_tokens=2**63)])
        refusal = client.receive()
        assert isinstance(refusal, Refusal)
        assert (refusal.seq, refusal.retryable) == (1, False)
        client.send_rows(2, [row("r1")])
        assert client.receive_seq() == 2
    assert set(stored(db_path)) == {"r1"}


@pytest.mark.slow
def test_a_client_that_reads_no_acknowledgements_is_dropped(
    server: LedgerServer, db_path: Path, socket_path: Path
) -> None:
    with RawClient(socket_path) as deaf, RawClient(socket_path) as good:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        one = frame(msgspec.msgpack.encode(["batch", 1, 0, []]))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100_000):
                deaf.socket.sendall(one * 100)
        good.send_rows(1, [row("r1")])
        assert good.receive_seq() == 1


def test_an_acknowledgement_longer_than_the_sockets_buffer_arrives_whole(
    server: LedgerServer, socket_path: Path
) -> None:
    """Of a batch whose rows each have a tenant, a project and a key of their own, to a client that reads late
    and little at a time."""
    long = "x" * 40
    rows = [
        row(f"r{n}", tenant_id=f"{long}{n}", project_id=f"{long}{n}", key_id=f"{long}{n}")
        for n in range(1024)
    ]
    with RawClient(socket_path) as slow, RawClient(socket_path) as other:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        slow.send_rows(1, rows)
        other.send_rows(1, [row("r0")])
        assert other.receive_seq() == 1
        answer = slow.receive()
        assert isinstance(answer, Ack)
        assert len({standing.scope for standing in answer.standings}) == 3 * 1024
        slow.send_rows(2, [row("again")])
        assert slow.receive_seq() == 2


# several clients


def test_batches_of_two_workers_share_a_transaction_and_each_gets_its_own_acknowledgement(
    db_path: Path, socket_path: Path
) -> None:
    with TestDisk() as disk, serving(db_path, socket_path):
        clients = [RawClient(socket_path) for _ in range(4)]
        disk.hold_next_sync()
        clients[0].send_rows(10, [row("first")])
        assert disk.sync_entered.wait(10)  # what follows gathers behind the first batch
        for number, client in enumerate(clients[1:], start=1):
            client.send_rows(10 + number, [row(f"r{number}")])
        before = disk.syncs
        disk.sync_may_go_on.set()
        assert [client.receive_seq() for client in clients] == [10, 11, 12, 13]
        assert disk.syncs - before == 3, "a new log's head, the first batch, the other three"
        for client in clients:
            client.close()
    assert len(stored(db_path)) == 4


def test_a_bad_row_of_one_worker_does_not_refuse_another_workers_batch(
    db_path: Path, socket_path: Path
) -> None:
    with TestDisk() as disk, serving(db_path, socket_path):
        clients = [RawClient(socket_path) for _ in range(3)]
        disk.hold_next_sync()
        clients[0].send_rows(1, [row("first")])
        assert disk.sync_entered.wait(10)
        clients[1].send_rows(1, [row("bad", output_tokens=2**63)])
        clients[2].send_rows(1, [row("good")])
        disk.sync_may_go_on.set()
        assert clients[0].receive_seq() == 1
        refusal = clients[1].receive()
        assert isinstance(refusal, Refusal)
        assert not refusal.retryable
        assert clients[2].receive_seq() == 1
        for client in clients:
            client.close()
    assert set(stored(db_path)) == {"first", "good"}


def test_one_worker_too_many_is_told_to_come_again(
    server: LedgerServer, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "CLIENTS_MAX", 2)
    with RawClient(socket_path), RawClient(socket_path), RawClient(socket_path, greet=False) as third:
        refusal = third.receive()
        assert isinstance(refusal, Refusal)
        assert refusal.retryable
        assert third.receive() is None


# disks


def test_a_full_disk_is_refused_for_now_and_the_same_batch_succeeds_later(
    db_path: Path, socket_path: Path
) -> None:
    with TestDisk() as disk, serving(db_path, socket_path), RawClient(socket_path) as client:
        disk.full = True
        client.send_rows(1, [row("r1")])
        refusal = client.receive()
        assert isinstance(refusal, Refusal)
        assert (refusal.seq, refusal.retryable) == (1, True)
        assert "no space left" in refusal.reason
        disk.full = False
        client.send_rows(2, [row("r1")])
        assert client.receive_seq() == 2
    assert set(stored(db_path)) == {"r1"}


def test_a_sync_that_fails_is_never_acknowledged_and_ends_the_process(
    db_path: Path, socket_path: Path
) -> None:
    """After a failed sync the kernel may drop what it could not write, so only a fresh start is certain."""
    with TestDisk() as disk:
        file = ledger.LedgerFile(db_path)
        listener = ledger._listen(socket_path)
        running = LedgerServer(file, listener)
        ends: list[BaseException] = []

        def serve() -> None:
            try:
                running.serve()
            except apsw.Error as error:
                ends.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        with RawClient(socket_path) as client:
            disk.broken = True
            client.send_rows(1, [row("r1")])
            refusal = client.receive()
            assert isinstance(refusal, Refusal)
            assert refusal.retryable
            thread.join(10)
        assert [type(error) for error in ends] == [apsw.IOError]
        disk.broken = False
        running.close()
        listener.close()
        file.close()


def test_the_log_is_checkpointed_when_it_is_quiet(
    db_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "IDLE_CHECKPOINT_S", 0.02)
    with serving(db_path, socket_path) as server, RawClient(socket_path) as client:
        client.send_rows(1, [row("r1")])
        assert client.receive_seq() == 1
        give_up = time.monotonic() + 10
        while server._file.log_pages and time.monotonic() < give_up:
            time.sleep(0.005)
        assert server._file.log_pages == 0


def test_the_log_stays_bounded_under_load(
    db_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "CHECKPOINT_PAGES", 50)
    with serving(db_path, socket_path), RawClient(socket_path) as client:
        for seq in range(1, 301):
            client.send_rows(seq, [row(f"r{seq}")])
            assert client.receive_seq() == seq
        assert (db_path.parent / "ledger.db-wal").stat().st_size < 70 * 4200
    assert len(stored(db_path)) == 300


# the process


def start_process(db_path: Path, socket_path: Path) -> subprocess.Popen[str]:
    code = "import sys; from sextant.store.ledger import run_ledger; run_ledger(sys.argv[1], sys.argv[2])"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(db_path), str(socket_path)], stderr=subprocess.PIPE, text=True
    )


def connect_soon(socket_path: Path) -> RawClient:
    give_up = time.monotonic() + 20
    while True:
        try:
            return RawClient(socket_path)
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < give_up, "the ledger process did not come up"
            time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_the_process_cleanly(
    db_path: Path, socket_path: Path, number: signal.Signals
) -> None:
    process = start_process(db_path, socket_path)
    with connect_soon(socket_path) as client:
        client.send_rows(1, [row("r1")])
        assert client.receive_seq() == 1
        process.send_signal(number)
        assert client.receive() is None
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert not (db_path.parent / "ledger.db-wal").exists(), "checkpointed"
    assert set(stored(db_path)) == {"r1"}


def test_a_stale_socket_of_a_killed_process_is_replaced(db_path: Path, socket_path: Path) -> None:
    first = start_process(db_path, socket_path)
    with connect_soon(socket_path) as client:
        client.send_rows(1, [row("r1")])
        assert client.receive_seq() == 1
        first.kill()
        first.communicate(timeout=20)
    assert socket_path.is_socket()
    with serving(db_path, socket_path), RawClient(socket_path) as client:
        client.send_rows(1, [row("r1"), row("r2")])
        assert client.receive_seq() == 1
    assert set(stored(db_path)) == {"r1", "r2"}


def test_a_second_process_for_the_same_file_is_refused(
    db_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOCK_WAIT_S", 0.05)
    process = start_process(db_path, socket_path)
    with connect_soon(socket_path) as client:
        with pytest.raises(Misconfigured, match=rf"another ledger process \(pid {process.pid}\) holds"):
            run_ledger(db_path, socket_path.with_name("other.sock"))
        client.send_rows(1, [row("r1")])
        assert client.receive_seq() == 1
    process.terminate()
    process.communicate(timeout=20)


def test_the_socket_is_private(server: LedgerServer, socket_path: Path) -> None:
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700


def test_a_socket_directory_open_to_others_is_refused(db_path: Path, socket_path: Path) -> None:
    socket_path.parent.mkdir()
    socket_path.parent.chmod(0o755)
    with pytest.raises(Misconfigured, match="chmod 700"):
        run_ledger(db_path, socket_path)


def test_the_umask_survives(server: LedgerServer) -> None:
    before = os.umask(0o022)
    os.umask(before)
    assert before != 0o177


def test_a_socket_path_that_is_too_long_is_refused_with_the_reason(tmp_path: Path, db_path: Path) -> None:
    with pytest.raises(Misconfigured, match="107 bytes"):
        run_ledger(db_path, tmp_path / "private" / ("x" * 120))


def test_a_hello_is_answered_with_the_version(server: LedgerServer, socket_path: Path) -> None:
    with RawClient(socket_path, greet=False) as client:
        client.send(Hello(WIRE_VERSION, "worker"))
        assert client.receive() == Welcome(WIRE_VERSION)
