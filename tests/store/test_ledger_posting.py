"""Posting and asking over the socket, as control does, well and badly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ledger_under_test import RawClient, TestDisk, row, serving
from sextant.base.errors import BadRequest, LedgerUnavailable
from sextant.spec.ledger_wire import SCOPES_MAX, TRANSFERS_MAX, Post, Refusal, frame
from sextant.spec.transfer import Transfer, prepaid_account
from sextant.store.ledger_posting import LedgerPosting


def top_up(name: str, amount_nano: int = 100) -> Transfer:
    return Transfer(name, "top-up", "cash", prepaid_account("a"), amount_nano, "CNY", 1)


@pytest.fixture
def posting(tmp_path: Path) -> Iterator[LedgerPosting]:
    with serving(tmp_path / "ledger.db", tmp_path / "run" / "ledger.sock"):
        yield LedgerPosting(tmp_path / "run" / "ledger.sock")


def test_a_post_is_told_in_the_standing_and_counts_once(posting: LedgerPosting) -> None:
    for _ in range(2):
        (standing,) = posting.post([top_up("t1")])
        assert (standing.scope, standing.funds_nano) == ("tenant:a", 100)
    assert posting.ask(["tenant:a", "key:x"])[0] == standing
    assert posting.ask(["tenant:a", "key:x"])[1].version == 0


def test_posts_from_many_threads_are_all_kept(posting: LedgerPosting) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: posting.post([top_up(f"t{number % 20}", 1)]), range(60)))
    assert posting.ask(["tenant:a"])[0].funds_nano == 20


def test_a_post_that_cannot_be_is_the_callers_fault(posting: LedgerPosting) -> None:
    spend = Transfer("x", "refund", prepaid_account("a"), "cash", 5, "CNY", 1)
    with pytest.raises(BadRequest, match=r"takes 0\.000000005 CNY from tenant:a:prepaid, which has 0\.00;"):
        posting.post([spend])
    with pytest.raises(BadRequest, match=f"at most {TRANSFERS_MAX}"):
        posting.post([top_up(f"t{number}") for number in range(TRANSFERS_MAX + 1)])
    with pytest.raises(BadRequest, match=f"at most {SCOPES_MAX}"):
        posting.ask(["tenant:a"] * (SCOPES_MAX + 1))
    assert posting.ask(["tenant:a"])[0].version == 0


def test_a_post_of_unknown_kind_ends_the_connection_alone(tmp_path: Path) -> None:
    db, socket_path = tmp_path / "ledger.db", tmp_path / "run" / "ledger.sock"
    odd = ["post", 1, [["t1", "gift", "cash", prepaid_account("a"), 1, "CNY", 1, "", "", 0]]]
    with serving(db, socket_path), RawClient(socket_path) as good, RawClient(socket_path) as bad:
        bad.socket.sendall(frame(msgspec.msgpack.encode(odd)))
        assert isinstance(bad.receive(), Refusal)
        assert bad.receive() is None
        good.send(Post(3, [top_up("t1")]))
        assert good.receive_seq() == 3


def test_what_is_sent_together_is_seen_together(tmp_path: Path) -> None:
    """A batch, a post and a question in one read: the question sees both."""
    db, socket_path = tmp_path / "ledger.db", tmp_path / "run" / "ledger.sock"
    with serving(db, socket_path), RawClient(socket_path) as client:
        said = (
            ["post", 1, [top_up("t1")]],
            ["ask", 2, ["tenant:a"]],
            ["batch", 3, 0, [row("r1", tenant_id="a")]],
        )
        client.socket.sendall(b"".join(frame(msgspec.msgpack.encode(one)) for one in said))
        answers = {}
        for _ in said:
            answer = client.receive()
            assert answer is not None and not isinstance(answer, Refusal)
            answers[answer.seq] = answer
        standing = answers[2].standings[0]  # type: ignore[union-attr]
        assert (standing.funds_nano, standing.day_tokens) == (100, 120)


def test_no_room_on_the_disk_is_told_and_the_same_post_succeeds_later(tmp_path: Path) -> None:
    db, socket_path = tmp_path / "ledger.db", tmp_path / "run" / "ledger.sock"
    with TestDisk() as disk, serving(db, socket_path):
        posting = LedgerPosting(socket_path)
        disk.full = True
        with pytest.raises(LedgerUnavailable, match="no space left"):
            posting.post([top_up("t1")])
        disk.full = False
        assert posting.post([top_up("t1")])[0].funds_nano == 100


def test_no_ledger_a_silent_one_and_one_of_another_version_are_told(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="does not answer"):
        LedgerPosting(tmp_path / "none.sock").post([top_up("t1")])
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(LedgerUnavailable, match="timed out"):
            LedgerPosting(path, deadline_s=0.05).ask(["tenant:a"])

        def answer() -> None:
            for words in (Refusal(0, "this ledger speaks protocol version 3", False), None):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(frame(msgspec.msgpack.encode(words)) if words else b"nonsense")

        listener.accept()[0].close()
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(LedgerUnavailable, match="protocol version 3"):
            LedgerPosting(path).ask(["tenant:a"])
        with pytest.raises(LedgerUnavailable, match="does not answer"):
            LedgerPosting(path).ask(["tenant:a"])
        thread.join()
