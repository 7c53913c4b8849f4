"""The ledger process by its command line: prices of the policy file, books in a file or in PostgreSQL."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_under_test import RawClient, row
from sextant.app.ledger_process import PolicyFollower
from sextant.base.errors import Misconfigured
from sextant.spec.policy import Price, PricePlan, TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.store.accounts import publish
from sextant.store.ledger_check import check_books
from sextant.store.ledger_posting import LedgerPosting


def policy(version: int, nano_per_token: int) -> PolicySnapshot:
    per_mtok = nano_per_token * 1_000_000
    plan = PricePlan("plan", "USD", (Price("*", per_mtok, per_mtok, per_mtok, per_mtok),))
    tenant = TenantPolicy(
        "a", "A", billing="postpaid", plan="plan", currency="USD", time_zone="Pacific/Kiritimati"
    )
    return PolicySnapshot(version, tenants=(tenant,), plans=(plan,))


def test_a_batch_of_a_newer_policy_is_rated_by_it_at_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    publish(policy(1, 2), path)
    follower = PolicyFollower(path, clock_s=lambda: 0.0)
    assert follower(1).rate(row("r1", tenant_id="a"), 0).cost_nano == 240
    publish(policy(2, 3), path)
    assert follower(1).version == 1, "not looked at again so soon"
    assert follower(2).rate(row("r1", tenant_id="a"), 0).cost_nano == 360
    assert follower(9).version == 2, "the newest that there is"


def test_the_file_is_followed_and_a_bad_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, now_s = tmp_path / "policy.json", [0.0]
    publish(policy(1, 2), path)
    follower = PolicyFollower(path, clock_s=lambda: now_s[0])
    publish(policy(2, 3), path)
    now_s[0] += 1
    assert follower(0).version == 2
    path.write_text("{}")
    now_s[0] += 1
    assert follower(0).version == 2
    assert "cannot be used" in caplog.text


def test_a_tenant_that_the_policy_lacks_is_free_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policy.json"
    publish(policy(1, 2), path)
    rates = PolicyFollower(path)(0)
    with caplog.at_level(logging.ERROR):
        assert [rates.rate(row(f"r{n}", tenant_id="stranger"), 0).cost_nano for n in range(3)] == [0, 0, 0]
    assert caplog.text.count("tenant stranger") == 1


def test_without_a_policy_file_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        PolicyFollower(tmp_path / "policy.json")


@contextlib.contextmanager
def process(tmp_path: Path, *books: str) -> Iterator[Path]:
    publish(policy(1, 2), tmp_path / "policy.json")
    socket_path = tmp_path / "run" / "ledger.sock"
    socket_path.parent.mkdir(mode=0o700)
    command = [sys.executable, "-m", "sextant.app.ledger_process", "--socket", str(socket_path), *books]
    running = subprocess.Popen([*command, "--policy", str(tmp_path / "policy.json")])
    try:
        give_up_s = time.monotonic() + 20
        while not socket_path.exists():
            assert running.poll() is None and time.monotonic() < give_up_s
            time.sleep(0.01)
        yield socket_path
    finally:
        running.terminate()
        assert running.wait(20) == 0


@pytest.mark.parametrize("where", ["file", "server"])
def test_rows_are_rated_and_kept(tmp_path: Path, where: str, request: pytest.FixtureRequest) -> None:
    if where == "file":
        location = str(tmp_path / "ledger.db")
        books = ("--db", location)
    else:
        location = request.getfixturevalue("database")
        (tmp_path / "store").write_text(f"{location}\n")
        books = ("--store", str(tmp_path / "store"))
    with process(tmp_path, *books) as socket_path, RawClient(socket_path) as client:
        client.send_rows(1, [row("r1", tenant_id="a"), row("r2", tenant_id="stranger")])
        assert client.receive_seq() == 1
        (standing,) = LedgerPosting(socket_path).ask(["tenant:a"])
        assert (standing.day, standing.month_nano) == (20261119, 240), "the day is that of the tenant"
    assert check_books(location) == []
