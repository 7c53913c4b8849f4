"""The ledger process: the only writer and checkpointer of `ledger.db`, for any number of gateway workers.

Flow 1 (serve), at its end: `governance.ledger_client -> unix socket -> here -> ledger_file`. One thread, one
loop: read what has arrived, commit the batches of all workers in one transaction, acknowledge, and only then
look whether a checkpoint is due. `sextant.app.ledger_process` starts it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

import apsw
import msgspec

from sextant.base.errors import BadRequest, LedgerUnavailable, Misconfigured
from sextant.spec.ledger_wire import (
    SCOPES_MAX,
    TRANSFERS_MAX,
    WIRE_VERSION,
    Ack,
    Ask,
    BadFrame,
    Batch,
    Deliver,
    Delivered,
    Delivery,
    FrameBuffer,
    Hello,
    Post,
    Refusal,
    Welcome,
    frame,
)
from sextant.spec.policy import Billing, Standing
from sextant.spec.sites import ROWS_MAX, SiteAnswer
from sextant.spec.transfer import Transfer
from sextant.spec.usage import UsageRow
from sextant.store.books import BadRows, Rates, scopes_of
from sextant.store.ledger_file import CHECKPOINT_PAGES, LedgerFile

CLIENTS_MAX = 256
READ_BYTES = 256 * 1024
DAY_MS = 86_400_000
UNSENT_BYTES_MAX = 1024 * 1024
"""Answers kept for a client that does not read them; more, and it is dropped. The longest one, to a batch of
rows that each have a tenant, a project and a key of their own, is half of that."""
LOCK_WAIT_S = 1.0
IDLE_CHECKPOINT_S = 1.0
"""Quiet time after which the log is copied into the file even when it is short."""

Given = TypeVar("Given")
_log = logging.getLogger(__name__)
_decode = msgspec.msgpack.Decoder(Hello | Batch | Ask | Post | Deliver).decode
_encode = msgspec.msgpack.Encoder().encode


Message = Batch | Ask | Post | Deliver


class Ledger(Protocol):
    """Where the books are kept: `ledger_file.LedgerFile` or `ledger_postgres.LedgerDatabase`."""

    @property
    def log_pages(self) -> int:
        """Pages that wait for a checkpoint."""

    def append(self, rows: Sequence[UsageRow], rates: Rates) -> list[Standing]: ...

    def post(self, transfers: Sequence[Transfer], rates: Rates) -> list[Standing]: ...

    def ask(self, scopes: Collection[str], rates: Rates) -> list[Standing]: ...

    def deliver(self, delivery: Delivery, rates: Rates) -> SiteAnswer: ...

    def checkpoint(self) -> None: ...

    def close(self) -> None: ...


@functools.lru_cache(maxsize=64)
def _utc_day_and_month(days: int) -> tuple[int, int]:
    day = datetime.fromtimestamp(days * 86_400, UTC)
    return day.year * 10_000 + day.month * 100 + day.day, day.year * 100 + day.month


class NoRated(msgspec.Struct, frozen=True):
    cost_nano: int = 0
    list_nano: int = 0
    currency: str = "CNY"


class NoRates:
    """Where nothing has a price: every tenant is free, and its days are those of UTC."""

    version = 0

    _nothing = NoRated()

    def rate(self, row: UsageRow, month_tokens_before: int) -> NoRated:
        return self._nothing

    def day_and_month(self, tenant_id: str, at_ms: int) -> tuple[int, int]:
        return _utc_day_and_month(at_ms // DAY_MS)

    def currency(self, tenant_id: str) -> str:
        return self._nothing.currency

    def billing(self, tenant_id: str) -> Billing:
        return "free"


RatesFor = Callable[[int], Rates]
"""The rates of a policy that is at least of the version given, if there is one; asked for every round."""


def without_prices(_policy_version: int) -> Rates:
    """The `RatesFor` of a ledger that stands alone."""
    return _NO_RATES


_NO_RATES = NoRates()


def run_ledger(
    db_path: str | os.PathLike[str],
    socket_path: str | os.PathLike[str],
    rates_for: RatesFor = without_prices,
    *,
    numbered: bool = False,
) -> None:
    """Serves the ledger file `db_path` on `socket_path` until SIGTERM or SIGINT: then the commit under way
    ends, the log is checkpointed, and this returns. `numbered`: the order of rows is kept, for a forwarder.
    Raises Misconfigured when another process holds the
    ledger, or the file or the socket cannot be had; LedgerUnavailable when the disk fails, so that a fresh
    start is due."""
    lock_path = Path(db_path).with_name(Path(db_path).name + ".lock")
    _log.info("ledger %s serves %s", db_path, socket_path)
    run_books(lambda: LedgerFile(db_path, numbered=numbered), lock_path, Path(socket_path), rates_for)
    _log.info("ledger %s stopped", db_path)


def run_books(opened: Callable[[], Ledger], lock_path: Path, socket_path: Path, rates_for: RatesFor) -> None:
    """Serves the books that `opened` opens once `lock_path` is held. Raises as `run_ledger`."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_single_instance(lock_path))
        file = opened()
        stack.callback(_close, file)
        listener = stack.enter_context(_listen(socket_path))
        server = LedgerServer(file, listener, rates_for)
        stack.callback(server.close)
        stack.enter_context(_stop_on_signals(server))
        try:
            server.serve()
        except apsw.Error as error:
            raise LedgerUnavailable(f"the ledger failed, start it again: {error}") from error


def _close(file: Ledger) -> None:
    try:
        file.close()
    except apsw.Error as error:
        _log.error("the last checkpoint failed; the log keeps its rows for the next start: %s", error)


class LedgerServer:
    """The loop. `listener` is a bound, listening unix socket."""

    def __init__(self, file: Ledger, listener: socket.socket, rates_for: RatesFor = without_prices) -> None:
        self._file = file
        self._rates_for = rates_for
        self._listener = listener
        self._clients: set[_Client] = set()
        self._stopping = False
        self._read_buffer = bytearray(READ_BYTES)
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self.wake_writer = socket.socketpair()
        for ours in (listener, self._wake_reader, self.wake_writer):
            ours.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._drain_wake)

    def stop(self) -> None:
        """Ends `serve` after the round under way. Safe in a signal handler and from another thread."""
        self._stopping = True
        with contextlib.suppress(BlockingIOError):
            self.wake_writer.send(b"\0")

    def serve(self) -> None:
        """Runs until `stop`. Raises apsw.Error when the disk fails in any way but being full: the state of
        the log is then only certain after a fresh start."""
        while not self._stopping:
            quiet_s = IDLE_CHECKPOINT_S if self._file.log_pages else None
            events = self._selector.select(quiet_s)
            waiting: list[tuple[_Client, Message]] = []
            for key, mask in events:
                if isinstance(key.data, _Client):
                    if mask & selectors.EVENT_WRITE:
                        self._send_rest(key.data)
                    if mask & selectors.EVENT_READ and key.data in self._clients:
                        self._read(key.data, waiting)
                else:
                    key.data()
            if waiting:
                self._answer_all(waiting)
            if self._file.log_pages and (not events or self._file.log_pages >= CHECKPOINT_PAGES):
                self._checkpoint()

    def close(self) -> None:
        for client in list(self._clients):
            self._drop(client)
        self._selector.close()
        self._wake_reader.close()
        self.wake_writer.close()

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the peer has left already
        connection.setblocking(False)
        client = _Client(connection)
        if len(self._clients) >= CLIENTS_MAX:
            client.send(Refusal(0, f"{CLIENTS_MAX} workers are connected already", True))
            connection.close()
            return
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _read(self, client: _Client, waiting: list[tuple[_Client, Message]]) -> None:
        """What `client` has sent; whole messages go to `waiting`. A client that breaks the protocol is told
        and dropped; nobody else notices."""
        try:
            count = client.socket.recv_into(self._read_buffer)
            if not count:
                self._drop(client)
                return
            for body in client.frames.feed(memoryview(self._read_buffer)[:count]):
                message = _decode(body)
                if isinstance(message, Hello):
                    client.greet(message)
                elif client.greeted:
                    waiting.append((client, message))
                else:
                    raise BadFrame("a message before the hello")
        except (BlockingIOError, InterruptedError):
            return
        except (BadFrame, msgspec.DecodeError) as error:
            self._refuse_and_drop(client, error)
        except OSError:
            self._drop(client)

    def _refuse_and_drop(self, client: _Client, error: Exception) -> None:
        _log.warning("dropping ledger client %s: %s", client.name, error)
        client.send(Refusal(0, str(error), False))
        self._drop(client)

    def _answer_all(self, waiting: list[tuple[_Client, Message]]) -> None:
        """The batches of all workers first, in one transaction; then what else was said, so that it sees
        them."""
        batches = [(client, said) for client, said in waiting if isinstance(said, Batch)]
        if batches:
            rates = self._rates_for(max(batch.policy_version for _, batch in batches))
            self._commit(batches, rates)
        for client, said in waiting:
            if not isinstance(said, Batch):
                self._answer_one(client, said, self._rates_for(0))

    def _commit(self, waiting: list[tuple[_Client, Batch]], rates: Rates) -> None:
        """One transaction for all; if the rows themselves are at fault, one for each, to find whose."""
        rows = (
            waiting[0][1].rows if len(waiting) == 1 else [row for _, batch in waiting for row in batch.rows]
        )
        try:
            standings = self._file.append(rows, rates)
        except BadRows as error:
            if len(waiting) > 1:
                for one in waiting:
                    self._commit([one], rates)
                return
            client, batch = waiting[0]
            _log.error("a batch of ledger client %s cannot be kept: %s", client.name, error)
            self._send(client, Refusal(batch.seq, str(error), False))
            return
        except (LedgerUnavailable, apsw.Error) as error:
            for client, batch in waiting:
                self._put_off(client, batch, error)
            if isinstance(error, apsw.Error):
                raise
            return
        if len(waiting) == 1:
            self._send(waiting[0][0], Ack(waiting[0][1].seq, standings))
            return
        by_scope = {standing.scope: standing for standing in standings}
        for client, batch in waiting:
            self._send(client, Ack(batch.seq, [by_scope[scope] for scope in scopes_of(batch.rows)]))

    def _answer_one(self, client: _Client, said: Ask | Post | Deliver, rates: Rates) -> None:
        answer: Ack | Delivered
        try:
            if isinstance(said, Ask):
                scopes = _bounded(said.scopes, SCOPES_MAX, "scopes")
                answer = Ack(said.seq, self._file.ask(scopes, rates))
            elif isinstance(said, Post):
                transfers = _bounded(said.transfers, TRANSFERS_MAX, "transfers")
                answer = Ack(said.seq, self._file.post(transfers, rates))
            else:
                _bounded(said.delivery.rows, ROWS_MAX, "rows of a site")
                answer = Delivered(said.seq, self._file.deliver(said.delivery, rates))
        except BadRequest as error:
            self._send(client, Refusal(said.seq, error.message, False))
        except (LedgerUnavailable, apsw.Error) as error:
            self._put_off(client, said, error)
            if isinstance(error, apsw.Error):
                raise
        else:
            self._send(client, answer)

    def _put_off(self, client: _Client, said: Message, error: Exception) -> None:
        reason = error.message if isinstance(error, LedgerUnavailable) else f"the ledger file failed: {error}"
        _log.error("ledger: %s", reason)
        self._send(client, Refusal(said.seq, reason, True))

    def _send(self, client: _Client, message: Ack | Delivered | Refusal) -> None:
        if client not in self._clients:
            return
        if not client.send(message):
            self._drop(client)
        elif client.unsent:
            self._selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _send_rest(self, client: _Client) -> None:
        if not client.send_rest():
            self._drop(client)
        elif not client.unsent:
            self._selector.modify(client.socket, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client.socket)
            client.socket.close()

    def _checkpoint(self) -> None:
        try:
            self._file.checkpoint()
        except (apsw.BusyError, apsw.FullError) as error:
            _log.warning("checkpoint put off: %s", error)


def _bounded(given: list[Given], most: int, what: str) -> list[Given]:
    if len(given) > most:
        raise BadRequest(f"{len(given)} {what} in one message; send at most {most}")
    return given


class _Client:
    """One connected gateway worker."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.frames = FrameBuffer()
        self.unsent = bytearray()
        """What the socket did not take yet, at most `UNSENT_BYTES_MAX`."""
        self.greeted = False
        self.name = "(no hello yet)"

    def greet(self, hello: Hello) -> None:
        if hello.version != WIRE_VERSION:
            raise BadFrame(
                f"this ledger speaks protocol version {WIRE_VERSION}, the client {hello.version}: "
                "restart both from the same installation"
            )
        self.name = hello.name
        self.greeted = True
        self.send(Welcome(WIRE_VERSION))

    def send(self, message: Welcome | Ack | Delivered | Refusal) -> bool:
        """False when the client has left, or reads so little that too much waits for it."""
        self.unsent += frame(_encode(message))
        return self.send_rest()

    def send_rest(self) -> bool:
        """Hands the socket what it takes now; False as `send`."""
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        del self.unsent[:sent]
        return len(self.unsent) <= UNSENT_BYTES_MAX


@contextlib.contextmanager
def _single_instance(lock_path: Path) -> Iterator[None]:
    """Holds the lock file; the kernel lets go of it however this process ends."""
    try:
        lock = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(f"cannot open {lock_path}: {error.strerror}") from error
    try:
        try:
            _lock_soon(lock)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise Misconfigured(
                f"another ledger process (pid {holder}) holds {lock_path}; "
                "stop it first, or use another state directory"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _lock_soon(lock: int) -> None:
    """Takes the lock; a predecessor that is just ending gets `LOCK_WAIT_S`. Raises BlockingIOError."""
    give_up_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up_s:
                raise
        time.sleep(0.02)


def _listen(path: Path) -> socket.socket:
    """A listening unix socket, mode 0600, in a directory that is ours alone; a stale one is replaced (the
    lock says that nobody serves it)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_mode & 0o077:
        raise Misconfigured(f"{path.parent} is open to other users; run: chmod 700 {path.parent}")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(CLIENTS_MAX)
    except OSError as error:
        listener.close()
        raise Misconfigured(
            f"cannot listen on {path}: {error} (a socket path has at most 107 bytes)"
        ) from error
    finally:
        os.umask(umask)
    return listener


@contextlib.contextmanager
def _stop_on_signals(server: LedgerServer) -> Iterator[None]:
    """SIGTERM and SIGINT end the loop; only in the main thread, where signals can be caught."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        server.stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
