"""What tests of the ledger share: a ledger served from a thread, rows, a raw client, a disk that fails."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec

from sextant.spec.ledger_wire import WIRE_VERSION, Ack, FrameBuffer, Hello, Refusal, Welcome, frame
from sextant.spec.policy import Billing
from sextant.spec.usage import UsageRow
from sextant.store.ledger import LedgerServer, NoRated, NoRates, _listen
from sextant.store.ledger_file import LedgerFile


def row(request_id: str, **changes: Any) -> UsageRow:
    """A usage row of request `request_id`."""
    plain = UsageRow(
        request_id, "default", "", "key_a", "nano", "chat.completions", "ok",
        1_795_000_000_000, 1200, 80, 100, 20, 64, 5, False,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


class FlatRates(NoRates):
    """Every token costs the same; tenants are prepaid unless `ways` says otherwise. For tests of the ledger,
    which takes prices as they come."""

    def __init__(
        self, nano_per_token: int = 1, ways: dict[str, Billing] | None = None, *, halved_after: int = 2**60
    ) -> None:
        self.nano_per_token = nano_per_token
        self.ways = ways or {}
        self.halved_after = halved_after
        """Tokens of a month after which a row costs half."""

    def rate(self, row: UsageRow, month_tokens_before: int) -> NoRated:
        list_nano = (row.input_tokens + row.output_tokens) * self.nano_per_token
        cost_nano = list_nano // 2 if month_tokens_before >= self.halved_after else list_nano
        return NoRated(0, 0) if self.billing(row.tenant_id) == "free" else NoRated(cost_nano, list_nano)

    def billing(self, tenant_id: str) -> Billing:
        return self.ways.get(tenant_id, "prepaid")


def stored(db_path: Path) -> dict[str, tuple[Any, ...]]:
    """All rows by request id, read as any other process would: what the gateway reported, not the price."""
    db = apsw.Connection(str(db_path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        columns = ", ".join(UsageRow.__struct_fields__)
        return {values[0]: values for values in db.execute(f"SELECT {columns} FROM usage")}
    finally:
        db.close()


@contextlib.contextmanager
def serving(db_path: Path, socket_path: Path) -> Iterator[LedgerServer]:
    """A ledger in a thread of this process; stopped gracefully at the end."""
    file = LedgerFile(db_path)
    listener = _listen(socket_path)
    server = LedgerServer(file, listener)
    thread = threading.Thread(target=server.serve, name="ledger")
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
        server.close()
        listener.close()
        file.close()


class RawClient:
    """Speaks the ledger's protocol byte by byte, well or badly."""

    def __init__(self, socket_path: Path, *, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        try:
            self.socket.connect(str(socket_path))
        except OSError:
            self.socket.close()
            raise
        self._frames = FrameBuffer()
        self._bodies: list[bytes] = []
        if greet:
            self.send(Hello(WIRE_VERSION, "test"))
            assert self.receive() == Welcome(WIRE_VERSION)

    def send(self, message: Any) -> None:
        self.socket.sendall(frame(msgspec.msgpack.encode(message)))

    def send_rows(self, seq: int, rows: list[Any]) -> None:
        self.send(["batch", seq, 0, rows])

    def receive(self) -> Welcome | Ack | Refusal | None:
        """The next message; None when the ledger has closed the connection."""
        while not self._bodies:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._bodies += self._frames.feed(data)
        return msgspec.msgpack.decode(self._bodies.pop(0), type=Welcome | Ack | Refusal)

    def receive_seq(self) -> int:
        """The number of the acknowledgement that comes next."""
        message = self.receive()
        assert isinstance(message, Ack), message
        return message.seq

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TestDisk(apsw.VFS):
    """A real disk below, with knobs: count syncs, delay or hold them, be full, fail. SQLite's default while
    in `with`."""

    __test__ = False

    def __init__(self) -> None:
        self.syncs = 0
        self.writes = 0
        self.sync_delay_s = 0.0
        self.sync_entered = threading.Event()
        self.sync_may_go_on = threading.Event()
        self.sync_may_go_on.set()
        self.full = False
        self.broken = False
        self.broken_while_exists: Path | None = None
        super().__init__("test-disk", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _TestFile(self, name, flags)

    def hold_next_sync(self) -> None:
        """The next sync waits for `sync_may_go_on`; `sync_entered` says that it is there."""
        self.sync_entered.clear()
        self.sync_may_go_on.clear()

    def __enter__(self) -> TestDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()


class _TestFile(apsw.VFSFile):
    def __init__(self, disk: TestDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("unix", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:
        if self._disk.full:
            raise apsw.FullError("test disk is full")
        self._disk.writes += 1
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        marker = self._disk.broken_while_exists
        if self._disk.broken or (marker is not None and marker.exists()):
            raise apsw.IOError("test disk is broken")
        self._disk.sync_entered.set()
        assert self._disk.sync_may_go_on.wait(30)
        if self._disk.sync_delay_s:
            time.sleep(self._disk.sync_delay_s)
        self._disk.syncs += 1
        super().xSync(flags)
