"""Sites in the admin API: their credentials, batches as they should and should not be, held usage."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_under_test import Control, control_with_ledger
from starlette.testclient import TestClient

from sextant.base.errors import RateLimited
from sextant.control import sites, sites_pace
from sextant.control.answers import BODY_BYTES_MAX
from sextant.control.office import Office
from sextant.control.sites_pace import BATCHES_AT_ONCE, BATCHES_PER_S, PacedSite
from sextant.spec.sites import AMOUNT_NANO_MAX, ROWS_MAX
from sextant.store.accounts_database import wall_clock_ms
from sextant.store.accounts_tenants import TenantChange
from sextant.store.ledger_reading import ledger_view


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "number": number,
        "request_id": f"r{number}",
        "tenant_id": "default",
        "project_id": "default.default",
        "key_id": "key_a",
        "model": "nano",
        "endpoint": "chat.completions",
        "outcome": "ok",
        "started_ms": 1_795_000_000_000,
        "duration_ms": 1200,
        "ttft_ms": 80,
        "input_tokens": 100,
        "output_tokens": 20,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "estimated": False,
        "cost_nano": 1000,
        "list_nano": 1000,
        "currency": "CNY",
        **changes,
    }


class Centre:
    """Control with two sites, and a client for the first."""

    def __init__(self, control: Control) -> None:
        self.control = control
        control.accounts.create_tenant("plants", TenantChange())
        self.credential = self.make("shanghai", {"default": "plants"})
        self.other = self.make("beijing", {"default": "plants"})

    def make(self, site_id: str, tenants: dict[str, str]) -> str:
        made = self.control.client.post("/v1/sites", json={"id": site_id, "tenants": tenants})
        assert made.status_code == 201, made.text
        return str(made.json()["credential"])

    def as_site(self, credential: str = "") -> TestClient:
        return self.control.with_token(credential or self.credential)

    def send(self, *rows: dict[str, Any], after: str = "", credential: str = "") -> Any:
        body = {"after_id": after, "rows": list(rows)}
        return self.as_site(credential).post("/v1/sites/shanghai/usage", json=body)

    def rows(self) -> int:
        return int(self.control.client.get("/v1/sites/shanghai").json()["rows"])


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with control_with_ledger(tmp_path) as control:
        yield Centre(control)


def test_a_batch_is_taken_once_and_a_replay_changes_nothing(centre: Centre) -> None:
    packed = gzip.compress(json.dumps({"after_id": "", "rows": [row(1), row(2)]}).encode())
    for expected in ((2, 0), (0, 2)):
        answer = centre.as_site().post(
            "/v1/sites/shanghai/usage", content=packed, headers={"Content-Encoding": "gzip"}
        )
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert (said["through"], said["through_id"]) == (2, "r2")
        assert (said["booked"], said["known"]) == expected
    shown = centre.control.client.get("/v1/sites").json()["sites"]
    assert [(one["id"], one["through"], one["rows"]) for one in shown] == [
        ("beijing", 0, 0),
        ("shanghai", 2, 2),
    ]
    asked = {"by": "tenant,key", "since_ms": 1_794_900_000_000, "until_ms": 1_795_100_000_000}
    usage = centre.control.client.get("/v1/usage", params=asked).json()
    [line] = usage["totals"]
    assert (line["tenant_id"], line["key_id"], line["cost_nano"]) == ("plants", "shanghai/key_a", 2000)
    with ledger_view(centre.control.settings.ledger_db) as view:
        assert view.query("SELECT request_id, tenant_id, cost_nano FROM usage ORDER BY 1") == [
            ("shanghai/r1", "plants", 1000),
            ("shanghai/r2", "plants", 1000),
        ]


def test_only_the_sites_own_live_credential_sends(centre: Centre) -> None:
    owner = centre.control.secret
    for credential, status in (
        ("sxsite-nobodys", 401),
        (centre.other, 403),
        (owner, 403),
    ):
        answer = centre.send(row(1), credential=credential)
        assert answer.status_code == status, answer.text
    client, old = centre.control.client, centre.credential
    centre.credential = client.post("/v1/sites/shanghai/credential").json()["credential"]
    assert centre.send(row(1), credential=old).status_code == 401
    assert centre.send(row(1)).status_code == 200
    assert client.delete("/v1/sites/shanghai/credential").json()["credential_ms"] == 0
    assert centre.send(row(2), after="r1").status_code == 401
    assert centre.rows() == 1
    trail = [one["action"] for one in client.get("/v1/audit").json()["audit"]]
    assert {"site.create", "site.credential", "site.revoke"} <= set(trail)


def test_a_sites_credential_does_nothing_else(centre: Centre) -> None:
    client = centre.as_site()
    for path in ("/v1/tenants", "/v1/keys", "/v1/sites", "/v1/sites/shanghai", "/v1/usage", "/metrics"):
        assert client.get(path).status_code == 403, path
    assert client.post("/v1/sites/shanghai/credential").status_code == 403
    assert client.patch("/v1/sites/shanghai", json={"tenants": {}}).status_code == 403


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"rows": [row(1, cost_nano=-1)]}, 422, "cost_nano"),
        ({"rows": [row(1, cost_nano=1.5)]}, 422, "cost_nano"),
        ({"rows": [row(1, currency="yuan")]}, 422, "currency"),
        ({"rows": [row(1, request_id="")]}, 422, "request_id"),
        ({"rows": [row(1, request_id="two words")]}, 422, "request_id"),
        ({"rows": [row(1, request_id="r1\n")]}, 422, "request_id"),
        ({"rows": [row(1, currency="CNY\n")]}, 422, "currency"),
        ({"rows": [row(1, model="\x1b[2Jnano")]}, 422, "model"),
        ({"rows": [row(1, key_id="key\x00")]}, 422, "key_id"),
        ({"rows": [row(1, outcome="ok\n")]}, 422, "outcome"),
        ({"after_id": "r\n", "rows": []}, 422, "after_id"),
        ({"rows": [row(0)]}, 422, "number"),
        ({"rows": [{**row(1), "secret": "x"}]}, 422, "secret"),
        ({"rows": [{"number": 1}]}, 422, "request_id"),
        ({"rows": [row(n) for n in range(1, ROWS_MAX + 2)]}, 422, "rows"),
        ({"rows": "many"}, 422, "rows"),
    ],
)
def test_a_malformed_batch_is_refused_whole(
    centre: Centre, body: dict[str, Any], status: int, said: str
) -> None:
    answer = centre.as_site().post("/v1/sites/shanghai/usage", json=body)
    assert answer.status_code == status and said in answer.text, answer.text
    assert centre.rows() == 0


@pytest.mark.parametrize(
    ("content", "encoding", "status"),
    [
        (b" " * (BODY_BYTES_MAX + 1), "identity", 413),
        (gzip.compress(b" " * (BODY_BYTES_MAX + 1)), "gzip", 413),
        (gzip.compress(b"{}", mtime=0)[:-5], "gzip", 422),
        (b"no gzip", "gzip", 422),
        (b"{}", "br", 422),
        (b"{", "identity", 422),
    ],
)
def test_a_body_that_is_too_large_or_broken_is_refused(
    centre: Centre, content: bytes, encoding: str, status: int
) -> None:
    headers = {"Content-Encoding": encoding}
    answer = centre.as_site().post("/v1/sites/shanghai/usage", content=content, headers=headers)
    assert answer.status_code == status, answer.text


def test_rows_of_a_tenant_that_nobody_named_wait_and_are_seen(centre: Centre) -> None:
    strangers = [row(number, tenant_id="stranger") for number in range(1, ROWS_MAX + 1)]
    assert centre.send(*strangers).json()["held"] == ROWS_MAX
    assert centre.send(row(ROWS_MAX + 1, tenant_id="stranger"), after=f"r{ROWS_MAX}").json()["held"] == 1
    client = centre.control.client
    held = client.get("/v1/sites/shanghai").json()["held"]
    assert held == [
        {
            "tenant_id": "stranger",
            "currency": "CNY",
            "rows": ROWS_MAX + 1,
            "tokens": 120 * (ROWS_MAX + 1),
            "cost_nano": 1000 * (ROWS_MAX + 1),
        }
    ]
    refused = client.patch("/v1/sites/shanghai", json={"tenants": {"stranger": "nobody"}})
    assert refused.status_code == 404
    named = client.patch("/v1/sites/shanghai", json={"tenants": {"stranger": "plants"}})
    assert named.status_code == 200 and named.json()["held"] == []
    with ledger_view(centre.control.settings.ledger_db) as view:
        query = "SELECT count(*), sum(cost_nano) FROM usage WHERE tenant_id = 'plants'"
        assert view.query(query) == [(ROWS_MAX + 1, 1000 * (ROWS_MAX + 1))]


def test_held_amounts_beyond_any_integer_are_still_shown(centre: Centre) -> None:
    many = [row(n, tenant_id="stranger", cost_nano=AMOUNT_NANO_MAX) for n in range(1, 6)]
    assert centre.send(*many).json()["held"] == 5
    shown = centre.control.client.get("/v1/sites")
    assert shown.status_code == 200, shown.text
    [held] = next(one for one in shown.json()["sites"] if one["id"] == "shanghai")["held"]
    assert (held["rows"], held["cost_nano"]) == (5, 2**63 - 1)


def test_metrics_say_who_was_not_heard_of_and_what_is_held(centre: Centre, monkeypatch: Any) -> None:
    assert centre.send(row(1), row(2, tenant_id="stranger")).status_code == 200
    assert _site_metrics(centre)["sextant_site_held_rows"] == {"beijing": 0, "shanghai": 1}
    now_ms = wall_clock_ms()
    monkeypatch.setattr(Office, "now_ms", staticmethod(lambda: now_ms + 600_000))
    silent = _site_metrics(centre)["sextant_site_last_contact_age_seconds"]
    assert 600 <= silent["shanghai"] <= silent["beijing"] < 700
    assert centre.send(after="r2").status_code == 200  # nothing to send is a sign of life
    heard = _site_metrics(centre)["sextant_site_last_contact_age_seconds"]
    assert heard["shanghai"] == 0 and heard["beijing"] == silent["beijing"]
    centre.control.client.patch(
        "/v1/sites/shanghai", json={"tenants": {"default": "plants", "stranger": "plants"}}
    )
    assert _site_metrics(centre)["sextant_site_held_rows"]["shanghai"] == 0


def test_metrics_are_served_without_a_readable_ledger_and_without_sites(tmp_path: Path) -> None:
    control = Control(tmp_path)
    assert "sextant_site" not in control.client.get("/metrics").text
    assert control.client.post("/v1/sites", json={"id": "shanghai", "tenants": {}}).status_code == 201
    text = control.client.get("/metrics").text
    assert 'sextant_site_last_contact_age_seconds{site="shanghai"}' in text
    assert "sextant_site_held_rows{" not in text
    control.close()


def _site_metrics(centre: Centre) -> dict[str, dict[str, float]]:
    """Metric to site to value."""
    found: dict[str, dict[str, float]] = {}
    text = centre.control.client.get("/metrics").text
    for name, site, value in re.findall(r'(?m)^(sextant_site_\w+){site="([^"]+)"} (\S+)$', text):
        found.setdefault(name, {})[site] = float(value)
    return found


def test_a_site_that_sends_without_end_is_told_when_to_come_again(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows wait with it; another site and the operator are not concerned."""
    monkeypatch.setattr(sites_pace, "BATCHES_AT_ONCE", 3.0)
    monkeypatch.setattr(sites_pace, "BATCHES_PER_S", 0.5)
    answers = [centre.send(row(1)) for _ in range(5)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429, 429]
    unread = centre.as_site().post("/v1/sites/shanghai/usage", content=b"{")
    assert unread.status_code == 429
    assert 1 <= int(answers[3].headers["Retry-After"]) <= 2
    assert "its rows are safe where they are" in answers[3].text
    empty = {"after_id": "", "rows": []}
    assert centre.as_site(centre.other).post("/v1/sites/beijing/usage", json=empty).status_code == 200
    assert centre.rows() == 1


def test_a_bucket_fills_with_time_and_never_beyond_its_size() -> None:
    now_s = 100.0
    paced = PacedSite(lambda: now_s)
    for _ in range(int(BATCHES_AT_ONCE)):
        paced._take("a")
    with pytest.raises(RateLimited) as raised:
        paced._take("a")
    assert raised.value.retry_after_s == pytest.approx(1 / BATCHES_PER_S)
    now_s += 1.5 / BATCHES_PER_S
    paced._take("a")
    with pytest.raises(RateLimited):
        paced._take("a")
    now_s += 1e6
    for _ in range(int(BATCHES_AT_ONCE)):
        paced._take("a")
    with pytest.raises(RateLimited):
        paced._take("a")


def test_a_question_looks_at_so_many_rows_and_no_more(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "ROWS_COUNTED_MAX", 3)
    assert centre.send(*(row(n) for n in range(1, 4))).status_code == 200
    assert centre.rows() == 3
    assert centre.send(*(row(n, tenant_id="nobody") for n in range(4, 11)), after="r3").status_code == 200
    shown = centre.control.client.get("/v1/sites/shanghai").json()
    assert (shown["rows"], shown["held"][0]["rows"]) == (10, 4)
    assert centre.control.client.get("/v1/sites").json()["sites"][1]["rows"] == 10
