"""The governor: who is let in, what is held while a request runs, and the row it leaves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from ledger_under_test import serving, stored
from sextant.base.errors import Forbidden, LedgerUnavailable, Unauthenticated
from sextant.governance import governor as governor_module
from sextant.governance.door import Admission, Claim, Governor, Outcome
from sextant.governance.governor import LocalGovernor
from sextant.governance.ledger_client import LedgerBounds, LedgerClient
from sextant.spec.policy import KeyPolicy, TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.usage import Usage, UsageRow
from sextant.telemetry.table import Registry

NOW_MS = 1_795_000_000_000


def digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


POLICY = PolicySnapshot(
    version=7,
    tenants=(TenantPolicy("default", "Default"), TenantPolicy("off", "Off", enabled=False)),
    keys=(
        KeyPolicy("key_a", "default", digest(b"sk-a")),
        KeyPolicy("key_b", "default", digest(b"sk-b"), expires_ms=NOW_MS + 1000),
        KeyPolicy("key_off", "off", digest(b"sk-off")),
    ),
)


class Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


class Setup(msgspec.Struct):
    governor: LocalGovernor
    ledger: LedgerClient
    registry: Registry
    clock: Clock
    db_path: Path


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    registry, clock = Registry(), Clock()
    with serving(tmp_path / "ledger.db", tmp_path / "run" / "ledger.sock"):
        ledger = LedgerClient(str(tmp_path / "run" / "ledger.sock"), registry, LedgerBounds(pending_rows=4))
        await ledger.start()
        yield Setup(
            LocalGovernor(POLICY, ledger, registry, clock), ledger, registry, clock, tmp_path / "ledger.db"
        )
        await ledger.close()


def claim(request_id: str) -> Claim:
    return Claim(request_id, "nano", "chat.completions", input_tokens=100, output_tokens=64)


OUTCOME = Outcome(Usage(100, 20, 64, 5, estimated=True), "ok", duration_ms=1200, ttft_ms=80)


def refusals(setup: Setup, code: str) -> float | None:
    return setup.registry.prometheus.get_sample_value("sextant_governance_refusals_total", {"code": code})


def test_it_is_what_the_gateway_expects(setup: Setup) -> None:
    door: Governor = setup.governor
    assert door.ready


# identify


def test_a_known_key_has_a_principal_the_first_time_and_every_time(setup: Setup) -> None:
    for _ in range(3):
        principal = setup.governor.identify(b"sk-a")
        assert (principal.tenant_id, principal.key_id) == ("default", "key_a")


@pytest.mark.parametrize(
    "secret", [b"", b"sk-", b"sk-A", b"sk-a ", b"x" * 10_000, b"\xff\x00", digest(b"sk-a").encode()]
)
def test_an_unknown_secret_is_refused_without_being_repeated(setup: Setup, secret: bytes) -> None:
    with pytest.raises(Unauthenticated) as caught:
        setup.governor.identify(secret)
    assert not secret or secret.decode("latin-1") not in caught.value.message
    assert refusals(setup, "invalid_api_key") == 1


def test_a_key_expires_at_its_time_although_it_is_remembered(setup: Setup) -> None:
    assert setup.governor.identify(b"sk-b").key_id == "key_b"
    setup.clock.ms += 999
    assert setup.governor.identify(b"sk-b").key_id == "key_b"
    setup.clock.ms += 1
    with pytest.raises(Unauthenticated, match="expired"):
        setup.governor.identify(b"sk-b")


def test_a_tenant_that_is_switched_off_is_forbidden(setup: Setup) -> None:
    with pytest.raises(Forbidden, match="tenant off is switched off"):
        setup.governor.identify(b"sk-off")


async def test_a_new_policy_takes_effect_at_once_for_remembered_keys_too(setup: Setup) -> None:
    principal = setup.governor.identify(b"sk-a")
    revoked = msgspec.structs.replace(POLICY, version=8, keys=POLICY.keys[1:])
    setup.governor.swap_policy(revoked)
    with pytest.raises(Unauthenticated):
        setup.governor.identify(b"sk-a")
    with pytest.raises(Unauthenticated, match="revoked"):
        await setup.governor.admit(principal, claim("queued meanwhile"))
    setup.governor.swap_policy(
        msgspec.structs.replace(POLICY, version=9, tenants=(TenantPolicy("default", "D", enabled=False),))
    )
    with pytest.raises(Forbidden):
        setup.governor.identify(b"sk-a")
    with pytest.raises(Unauthenticated):
        setup.governor.identify(b"sk-off")
    assert setup.governor.policy_version == 9
    assert setup.governor.open_admissions == {}


@pytest.mark.parametrize("sha256", ["", "not hexadecimal", "ab" * 31, "AB" * 32])
def test_a_key_with_a_broken_digest_is_refused_and_the_rest_of_its_policy_counts(
    setup: Setup, caplog: pytest.LogCaptureFixture, sha256: str
) -> None:
    broken = KeyPolicy("key_x", "default", sha256)
    setup.governor.swap_policy(PolicySnapshot(8, POLICY.tenants, (broken, *POLICY.keys[1:])))
    assert "key key_x is refused" in caplog.text
    assert setup.governor.identify(b"sk-b").key_id == "key_b"
    with pytest.raises(Unauthenticated):
        setup.governor.identify(b"sk-a")  # revoked by that policy


def test_the_memory_of_secrets_has_a_bound_and_takes_no_unknown_one(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governor_module, "SECRET_CACHE_MAX", 2)
    keys = tuple(KeyPolicy(f"key_{n}", "default", digest(b"sk-%d" % n)) for n in range(5))
    setup.governor.swap_policy(PolicySnapshot(8, POLICY.tenants, keys))
    for number in (0, 1, 2, 3, 4, 0, 1):
        assert setup.governor.identify(b"sk-%d" % number).key_id == f"key_{number}"
        assert len(setup.governor._by_secret) <= 2
    before = dict(setup.governor._by_secret)
    with pytest.raises(Unauthenticated):
        setup.governor.identify(b"sk-guess")
    assert setup.governor._by_secret == before


# admit, settle, refund


async def test_settling_leaves_one_row_with_everything_in_it(setup: Setup) -> None:
    principal = setup.governor.identify(b"sk-a")
    admission = await setup.governor.admit(principal, claim("req_1"))
    assert admission.started_ms == NOW_MS
    setup.clock.ms += 5000
    await setup.governor.settle(admission, OUTCOME)
    expected = UsageRow(
        "req_1", "default", "", "key_a", "nano", "chat.completions", "ok",
        NOW_MS, 1200, 80, 100, 20, 64, 5, True,
    )  # fmt: skip
    assert stored(setup.db_path) == {"req_1": msgspec.structs.astuple(expected)}


async def test_a_hold_lasts_from_admit_to_whichever_end_comes_first(setup: Setup) -> None:
    principal = setup.governor.identify(b"sk-a")
    admissions = [await setup.governor.admit(principal, claim(f"req_{n}")) for n in range(3)]
    gauge = setup.registry.prometheus.get_sample_value
    assert setup.governor.open_admissions == {"default": 3}
    assert gauge("sextant_governance_open_admissions") == 3
    await setup.governor.settle(admissions[0], OUTCOME)
    setup.governor.settle_soon(admissions[1], OUTCOME)
    setup.governor.refund(admissions[2])
    assert setup.governor.open_admissions == {}
    for admission in admissions:
        setup.governor.refund(admission)
        setup.governor.settle_soon(admission, OUTCOME)
        await setup.governor.settle(admission, OUTCOME)
    assert setup.governor.open_admissions == {}
    assert gauge("sextant_governance_open_admissions") == 0
    await setup.ledger.close()
    assert set(stored(setup.db_path)) == {"req_0", "req_1"}, "a refund writes no row"


async def test_a_settle_that_is_cancelled_leaves_no_hold_and_still_its_row(setup: Setup) -> None:
    admission = await setup.governor.admit(setup.governor.identify(b"sk-a"), claim("req_1"))
    task = asyncio.ensure_future(setup.governor.settle(admission, OUTCOME))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert setup.governor.open_admissions == {}
    await setup.ledger.close()
    assert set(stored(setup.db_path)) == {"req_1"}


async def test_a_row_that_cannot_be_queued_for_a_client_that_has_left_is_logged(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    admission = await setup.governor.admit(setup.governor.identify(b"sk-a"), claim("req_1"))
    setup.governor.settle_soon(admission, Outcome(Usage(input_tokens=2**70), "client_closed", 1))
    assert "no usage row for request req_1" in caplog.text
    assert setup.governor.open_admissions == {}


async def test_only_so_many_are_admitted_that_each_can_be_settled(setup: Setup) -> None:
    principal = setup.governor.identify(b"sk-a")
    admissions: list[Admission] = [await setup.governor.admit(principal, claim(f"req_{n}")) for n in range(4)]
    with pytest.raises(LedgerUnavailable) as caught:
        await setup.governor.admit(principal, claim("one too many"))
    assert caught.value.retry_after_s is not None
    assert refusals(setup, "ledger_unavailable") == 1
    for admission in admissions:
        setup.governor.settle_soon(admission, OUTCOME)
    with pytest.raises(LedgerUnavailable):
        await setup.governor.admit(principal, claim("their rows still have the places"))
    assert setup.governor.open_admissions == {}


async def test_without_a_ledger_nobody_is_admitted_and_ready_is_off(tmp_path: Path) -> None:
    ledger = LedgerClient(str(tmp_path / "none.sock"), Registry())
    await ledger.start()
    governor = LocalGovernor(POLICY, ledger, Registry())
    assert not governor.ready
    with pytest.raises(LedgerUnavailable, match="does not answer"):
        await governor.admit(governor.identify(b"sk-a"), claim("req_1"))
    assert governor.open_admissions == {}
    await ledger.close()


async def test_who_is_not_prepaid_has_no_balance(setup: Setup) -> None:
    assert await setup.governor.balance(setup.governor.identify(b"sk-a")) == ("CNY", None)


def test_a_key_without_its_tenant_is_refused(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    setup.governor.swap_policy(PolicySnapshot(8, (), POLICY.keys))
    with pytest.raises(Unauthenticated):
        setup.governor.identify(b"sk-a")
    assert "its tenant default is missing" in caplog.text
