"""Budgets: what is told, how often, by which way, and what if the receiver will not listen."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import email.policy
import hashlib
import hmac
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from billing_under_test import book, ms, policy, row, tenant, top_up
from fresh_accounts import copy_accounts
from operations.alert_receivers import Receiver, certificate, dripping, mail_server, receiving
from sextant.base.errors import BadRequest, NotFound
from sextant.operations.alert_channels import Channels, SmtpServer, Undelivered, Webhook, send_webhook
from sextant.operations.budgets import (
    ATTEMPTS_MAX,
    LEASE_MS,
    BudgetWatch,
    note_crossings,
    spending_of,
    tell_due,
    watch_budgets,
    watch_once,
)
from sextant.spec.money import nano_of
from sextant.store.accounts import Accounts
from sextant.store.budgets import BudgetBook, BudgetTerms
from sextant.store.ledger_reading import ledger_view
from store.accounts_under_test import STORES, migrated_url

NOON = ms("2026-11-10T12:00")
INSIDE = Channels(private_webhooks=True)
TENTH = nano_of("0.01")  # ten thirds of a request of 1,000 tokens


class Clock:
    def __init__(self) -> None:
        self.ms = NOON

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    path = tmp_path / "state" / "accounts.db"
    copy_accounts(path)
    yield from made(str(path))


@pytest.fixture(params=STORES)
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Accounts]:
    yield from made(migrated_url(request, tmp_path))


def made(url: str) -> Iterator[Accounts]:
    accounts = Accounts(url)
    accounts.create_tenant("acme")
    accounts.create_tenant("other")
    yield accounts
    accounts.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


class Setting:
    """A book of budgets beside a ledger in which requests of 0.003 USD can be made."""

    def __init__(self, accounts: Accounts, folder: Path, clock: Clock, channels: Channels = INSIDE) -> None:
        self.path = folder / "ledger.db"
        self.book = BudgetBook(accounts.engine, clock)
        book(self.path, [], [top_up(nano_of("100"))])
        self.watch = BudgetWatch(self.book, self.path, policy, channels, clock)

    def spend(self, requests: int, at: str = "2026-11-10T11:00", **changes: Any) -> None:
        book(self.path, [row(at, **changes) for _ in range(requests)])

    def budget(self, **changes: Any) -> tuple[str, str]:
        terms = BudgetTerms("tenant:acme", TENTH, "research 研究", webhook_url="http://127.0.0.1:9/")
        made, secret = self.book.create("acme", msgspec.structs.replace(terms, **changes))
        return made.id, secret


@pytest.fixture
def setting(accounts: Accounts, tmp_path: Path, clock: Clock) -> Setting:
    return Setting(accounts, tmp_path, clock)


def percents(receiver: Receiver) -> list[int]:
    return [json.loads(body)["data"]["threshold_percent"] for _, body in receiver.got]


def test_each_threshold_is_told_once_a_month(setting: Setting, receiver: Receiver, clock: Clock) -> None:
    setting.budget(webhook_url=receiver.url)
    told = []
    for _ in range(5):
        setting.spend(1)
        watch_once(setting.watch)
        watch_once(setting.watch)
        told.append(percents(receiver))
    assert told == [[], [50], [50, 80], [50, 80, 100], [50, 80, 100]]
    clock.ms = ms("2026-12-02T12:00")
    watch_once(setting.watch)
    assert len(receiver.got) == 3
    setting.spend(2, "2026-12-02T11:00")
    watch_once(setting.watch)
    assert percents(receiver) == [50, 80, 100, 50]


def test_what_is_told(setting: Setting, receiver: Receiver) -> None:
    budget_id, secret = setting.budget(webhook_url=receiver.url, thresholds=(50,))
    setting.spend(2)
    assert watch_once(setting.watch) == 1
    (headers, body), *rest = receiver.got
    assert rest == []
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert len(key) == 32
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-timestamp"] == str(NOON // 1000)
    said = json.loads(body)
    assert said["type"] == "budget.threshold_reached"
    assert said["timestamp"].startswith("2026-11-10T04:00:00")
    assert said["data"] == {
        "budget_id": budget_id,
        "name": "research 研究",
        "tenant_id": "acme",
        "scope": "tenant:acme",
        "month": 202611,
        "threshold_percent": 50,
        "currency": "USD",
        "budget": "0.01",
        "spent": "0.006",
        "estimate_of_month": "0.006",
    }


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of the Standard Webhooks reference libraries."""
    from sextant.operations.alert_channels import signature

    example = Webhook(
        "https://x",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
    )
    assert signature(example, 1614265330) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_budget_of_a_project_or_key_counts_that_alone(
    setting: Setting, accounts: Accounts, receiver: Receiver
) -> None:
    (project,) = (one for one in accounts.list_projects() if one.tenant_id == "acme")
    key, _ = accounts.create_key("acme", "k")
    for scope in (f"project:{project.id}", f"key:{key.id}"):
        setting.budget(webhook_url=receiver.url, scope=scope, thresholds=(100,))
    setting.spend(9)
    assert watch_once(setting.watch) == 0
    setting.spend(4, project_id=project.id)
    assert watch_once(setting.watch) == 1
    setting.spend(4, key_id=key.id)
    assert watch_once(setting.watch) == 1
    scopes = [json.loads(body)["data"]["scope"] for _, body in receiver.got]
    assert scopes == [f"project:{project.id}", f"key:{key.id}"]


def test_spending_of_the_last_minute_of_a_month_is_still_seen(
    setting: Setting, receiver: Receiver, clock: Clock
) -> None:
    setting.budget(webhook_url=receiver.url, thresholds=(100,))
    setting.spend(4, "2026-11-30T23:59:59")
    clock.ms = ms("2026-12-01T00:00:20")
    assert watch_once(setting.watch) == 1
    assert json.loads(receiver.got[0][1])["data"]["month"] == 202611


def test_what_does_not_arrive_is_sent_again_with_the_same_id(
    setting: Setting, receiver: Receiver, clock: Clock
) -> None:
    budget_id, _ = setting.budget(webhook_url=receiver.url, thresholds=(50,))
    setting.spend(2)
    receiver.answers = [500, 302, 429]
    waits = []
    for _ in range(4):
        before = len(receiver.got)
        watch_once(setting.watch)
        assert len(receiver.got) == before + 1
        (alert,) = setting.book.alerts(budget_id)
        waits.append(alert.due_ms - clock.ms)
        clock.ms = max(clock.ms, alert.due_ms - 1)
        assert watch_once(setting.watch) == 0, "not before its time"
        clock.ms += 1
    assert waits[:3] == [30_000, 60_000, 120_000]
    assert alert.told_ms > 0
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({headers["webhook-signature"] for headers, _ in receiver.got}) == 4
    assert watch_once(setting.watch) == 0


def test_it_is_given_up_after_a_bound_and_at_once_when_the_receiver_is_gone(
    setting: Setting, receiver: Receiver, clock: Clock
) -> None:
    budget_id, _ = setting.budget(webhook_url=receiver.url, thresholds=(50,))
    setting.spend(2)
    receiver.answers = [503] * 100
    for _ in range(ATTEMPTS_MAX + 5):
        watch_once(setting.watch)
        clock.ms += 3_600_000
    assert len(receiver.got) == ATTEMPTS_MAX
    (alert,) = setting.book.alerts(budget_id)
    assert (alert.told_ms, alert.attempts) == (-1, ATTEMPTS_MAX)
    assert "answered 503; expected 2xx" in alert.problem
    receiver.answers = [410]
    gone, _ = setting.budget(webhook_url=receiver.url, thresholds=(50,))

    watch_once(setting.watch)
    assert [one.told_ms for one in setting.book.alerts(gone)] == [-1]


def test_two_controls_tell_it_once(
    either: Accounts, tmp_path: Path, clock: Clock, receiver: Receiver
) -> None:
    setting = Setting(either, tmp_path, clock)
    setting.budget(webhook_url=receiver.url)
    setting.spend(4)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: watch_once(setting.watch), range(24))) == 3
    assert sorted(percents(receiver)) == [50, 80, 100]


def test_a_control_that_dies_between_telling_and_noting_tells_again(
    either: Accounts, tmp_path: Path, clock: Clock, receiver: Receiver
) -> None:
    setting = Setting(either, tmp_path, clock)
    setting.budget(webhook_url=receiver.url, thresholds=(50,))
    setting.spend(2)
    assert note_crossings(setting.watch) == 1
    ((lost, _, _),) = setting.book.claim_due(limit=5, lease_ms=LEASE_MS)
    assert tell_due(setting.watch) == 0
    clock.ms += LEASE_MS
    assert tell_due(setting.watch) == 1
    assert receiver.got[0][0]["webhook-id"] == lost.event_id


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://10.0.0.1/",
        "https://169.254.169.254/",
    ],
)
def test_a_webhook_leads_nowhere_inside(url: str) -> None:
    with pytest.raises(Undelivered, match="no public address") as caught:
        send_webhook(Webhook(url, "whsec_AAAA", "evt", b"{}"), Channels(), now_s=1)
    assert caught.value.for_good


def test_one_address_inside_among_those_of_a_name_is_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_: Any, **__: Any) -> list[Any]:
        return [(None, None, None, "", (address, 443)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr("socket.getaddrinfo", found)
    with pytest.raises(Undelivered, match=r"leads to 10\.0\.0\.1"):
        send_webhook(Webhook("https://x.example/", "whsec_AAAA", "evt", b"{}"), Channels(), now_s=1)


def test_webhooks_to_the_outside_are_never_in_the_clear(receiver: Receiver) -> None:
    with pytest.raises(Undelivered, match="only https"):
        send_webhook(Webhook(receiver.url, "whsec_AAAA", "evt", b"{}"), Channels(), now_s=1)
    assert receiver.got == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/", "http://127.0.0.1:99999/", "http://no.such.host.invalid/"]
)
def test_a_receiver_that_is_not_there_may_come_back(url: str) -> None:
    with pytest.raises(Undelivered) as caught:
        send_webhook(Webhook(url, "whsec_AAAA", "evt", b"{}"), INSIDE, now_s=1)
    assert not caught.value.for_good


@pytest.mark.parametrize("tls", [False, True])
def test_a_receiver_that_drips_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    """A byte now and then: no single wait is long, the whole would never end."""
    monkeypatch.setattr("sextant.operations.alert_channels.DEADLINE_S", 0.5)
    folder = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))
    with dripping(folder, tls=tls) as port:
        url = f"{'https' if tls else 'http'}://localhost:{port}/"
        with pytest.raises(Undelivered) as caught:
            send_webhook(Webhook(url, "whsec_AAAA", "evt", b"{}"), INSIDE, now_s=1)
    assert not caught.value.for_good
    assert "no whole answer within 0.5 s" in caught.value.message


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_an_email_is_handed_in_over_tls(
    accounts: Accounts, tmp_path: Path, clock: Clock, security: Any
) -> None:
    folder = certificate(tmp_path)
    with mail_server(folder, tls_first=security == "tls") as mail:
        server = SmtpServer(
            "localhost",
            "sextant@example.com",
            mail.port,
            security,
            "user",
            "secret",
            str(folder / "cert.pem"),
        )
        setting = Setting(accounts, tmp_path, clock, Channels(server))
        budget_id, secret = setting.budget(
            webhook_url="", emails=("ops@example.com", "cfo@example.com"), thresholds=(50,)
        )
        assert secret == ""
        setting.spend(2)
        assert watch_once(setting.watch) == 1
        assert watch_once(setting.watch) == 0
    assert mail.was_tls
    assert base64.b64decode(mail.logins[0].split()[-1]) == b"\0user\0secret"
    assert mail.recipients == ["ops@example.com", "cfo@example.com"]
    message = email.message_from_bytes(mail.messages[0], policy=email.policy.default)
    assert message["Subject"] == "Budget research 研究: 50 % reached in 2026-11 / 预算已用 50 %"
    (alert,) = setting.book.alerts(budget_id)
    assert message["Message-ID"] == f"<{alert.event_id}@sextant.invalid>"
    text = message.get_content()
    assert "0.006 USD" in text
    assert "0.01 USD" in text


def test_a_name_is_nothing_but_a_name_in_an_email(accounts: Accounts, tmp_path: Path, clock: Clock) -> None:
    folder = certificate(tmp_path)
    name = "=?utf-8?q?=0d=0aBcc:_all=40x.org=0d=0a=0d=0aPay_here?="  # which Python's headers decode
    with mail_server(folder) as mail:
        channels = Channels(SmtpServer("localhost", "s@x.org", mail.port, ca_file=str(folder / "cert.pem")))
        setting = Setting(accounts, tmp_path, clock, channels)
        setting.budget(name=name, webhook_url="", emails=("a@x.org",), thresholds=(50,))
        setting.spend(2)
        assert watch_once(setting.watch) == 1
    message = email.message_from_bytes(mail.messages[0], policy=email.policy.default)
    assert "Bcc" not in message
    assert mail.recipients == ["a@x.org"]
    assert "Pay_here" in message["Subject"]
    assert message.get_content().startswith("The budget =?")


def test_an_alert_that_cannot_be_written_keeps_back_no_other(
    setting: Setting, receiver: Receiver, accounts: Accounts
) -> None:
    bad, _ = setting.budget(webhook_url="", emails=("a@x.org",), thresholds=(50,))
    with accounts.engine.begin() as db:
        db.execute(sa.text("""UPDATE budget SET emails = '["=?utf-8?q?=0a?=@x.org"]'"""))
    setting.budget(webhook_url=receiver.url, thresholds=(50,))
    setting.spend(2)
    assert watch_once(setting.watch) == 1
    (alert,) = setting.book.alerts(bad)
    assert alert.problem == "the alert cannot be written: ValueError"


def test_a_mail_server_that_cannot_be_trusted_gets_nothing(
    accounts: Accounts, tmp_path: Path, clock: Clock
) -> None:
    folder = certificate(tmp_path)
    with mail_server(folder) as mail:
        setting = Setting(accounts, tmp_path, clock, Channels(SmtpServer("localhost", "s@x.org", mail.port)))
        budget_id, _ = setting.budget(webhook_url="", emails=("a@x.org",), thresholds=(50,))
        setting.spend(2)
        assert watch_once(setting.watch) == 0
    assert mail.messages == []
    (alert,) = setting.book.alerts(budget_id)
    assert (alert.told_ms, alert.problem) == (0, "mail server localhost: SSLCertVerificationError")


def test_recipients_that_do_not_exist_are_given_up(accounts: Accounts, tmp_path: Path, clock: Clock) -> None:
    folder = certificate(tmp_path)
    with mail_server(folder) as mail:
        mail.unknown = {"gone@x.org"}
        channels = Channels(SmtpServer("localhost", "s@x.org", mail.port, ca_file=str(folder / "cert.pem")))
        setting = Setting(accounts, tmp_path, clock, channels)
        budget_id, _ = setting.budget(webhook_url="", emails=("gone@x.org",), thresholds=(50,))
        setting.spend(2)
        assert watch_once(setting.watch) == 0
    (alert,) = setting.book.alerts(budget_id)
    assert (alert.told_ms, alert.problem) == (-1, "mail server localhost refused every recipient")


def test_without_a_mail_server_it_says_so(setting: Setting) -> None:
    budget_id, _ = setting.budget(webhook_url="", emails=("a@x.org",), thresholds=(50,))
    setting.spend(2)
    watch_once(setting.watch)
    assert "no mail server is configured" in setting.book.alerts(budget_id)[0].problem


async def test_a_round_that_fails_is_followed_by_another(
    setting: Setting, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    setting.budget(webhook_url=receiver.url, thresholds=(50,))
    setting.spend(2)
    away = setting.path.rename(setting.path.with_name("away.db"))
    watching = asyncio.create_task(watch_budgets(setting.watch, interval_s=0.01))
    async with asyncio.timeout(20):
        while "budgets could not be watched" not in caplog.text:
            await asyncio.sleep(0.01)
        away.rename(setting.path)
        while not receiver.got:
            await asyncio.sleep(0.01)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert percents(receiver) == [50]


def test_the_state_of_a_budget_can_be_asked_for(setting: Setting) -> None:
    budget_id, _ = setting.budget()
    setting.spend(2, "2026-11-09T11:00")
    with ledger_view(setting.path) as view:
        found = spending_of(view, setting.book.get(budget_id), policy(), now_ms=NOON)
    assert (found.month, found.spent_nano, found.currency) == (202611, nano_of("0.006"), "USD")
    assert (found.estimate.basis, found.estimate.month_nano) == (
        "linear",
        nano_of("0.006") * 41 // 2 + nano_of("0.006"),
    )


def test_budgets_are_made_listed_and_deleted(either: Accounts, clock: Clock) -> None:
    budgets = BudgetBook(either.engine, clock)
    terms = BudgetTerms(
        "tenant:acme", 5, webhook_url="https://example.com/", emails=("a@x.org",), thresholds=(1, 1000)
    )
    one, secret = budgets.create("acme", terms)
    two, _ = budgets.create("other", msgspec.structs.replace(terms, scope="tenant:other"))
    assert secret.startswith("whsec_")
    assert secret not in repr(budgets.list_budgets())
    assert [found.id for found in budgets.list_budgets()] == [one.id, two.id]
    assert budgets.list_budgets("acme") == [one]
    assert budgets.get(one.id).terms == terms
    assert budgets.delete(one.id) == one
    with pytest.raises(NotFound, match=f"no budget {one.id}"):
        budgets.get(one.id)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount_nano": 0}, "amount_nano"),
        ({"amount_nano": 2**63}, "amount_nano"),
        ({"thresholds": ()}, "thresholds"),
        ({"thresholds": (80, 50)}, "thresholds"),
        ({"thresholds": (0,)}, "thresholds"),
        ({"thresholds": (50, 50)}, "thresholds"),
        ({"webhook_url": "", "emails": ()}, "emails"),
        ({"webhook_url": "ftp://x/"}, "webhook_url"),
        ({"webhook_url": "https://x/\r\nX: y"}, "webhook_url"),
        ({"emails": ("a@b\r\nBcc: c@d",)}, "emails"),
        ({"emails": ("a@b, c@d",)}, "emails"),
        ({"emails": ("nobody",)}, "emails"),
        ({"emails": ("=?utf-8?q?a?=@x.org",)}, "emails"),
        ({"name": "a\nb"}, "name"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    setting: Setting, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        setting.budget(**change)
    assert caught.value.field == field


def test_a_budget_of_what_is_another_s_is_not_found(setting: Setting, accounts: Accounts) -> None:
    key, _ = accounts.create_key("other", "k")
    for scope in ("tenant:other", f"key:{key.id}", "project:other.default", "tenant:", "acme", "robot:1", ""):
        with pytest.raises(NotFound, match="of the tenant acme"):
            setting.budget(scope=scope)


def test_a_tenant_that_left_the_policy_is_passed_over(setting: Setting, receiver: Receiver) -> None:
    setting.budget(webhook_url=receiver.url)
    setting.spend(9)
    watch = msgspec.structs.replace(setting.watch, policy=lambda: policy(tenant("somebody")))
    assert watch_once(watch) == 0
