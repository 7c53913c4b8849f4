"""The admin API: the door, keys, reports, errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from control_under_test import Control
from starlette.testclient import TestClient

from sextant.control.settings import ProcessStatus, Status
from sextant.spec.snapshot import RouteTable, ServedModel, Upstream
from sextant.store.ledger_file import LedgerFile


def closing(folder: Path) -> Iterator[Control]:
    made = Control(folder)
    yield made
    made.client.close()
    made.accounts.close()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    yield from closing(tmp_path)


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """One for the tests that never get in."""
    yield from closing(tmp_path_factory.mktemp("control"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer sxadmin-wrong"},
        {"Authorization": "Basic {secret}"},
        {"Authorization": "{secret}"},
        {"X-Api-Key": "{secret}"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/health", "/v1/keys", "/metrics", "/openapi.json", "/docs", "/nothing", "/"]
)
def test_no_path_answers_without_the_credential(shut: Control, path: str, headers: dict[str, str]) -> None:
    given = {name: value.format(secret=shut.secret) for name, value in headers.items()}
    answer = TestClient(shut.app).get(path, headers=given)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_two_credentials_are_none(control: Control) -> None:
    headers = [("Authorization", f"Bearer {control.secret}"), ("Authorization", "Bearer other")]
    assert TestClient(control.app).get("/health", headers=headers).status_code == 401  # type: ignore[arg-type]


def test_an_api_key_is_no_admin_credential(control: Control) -> None:
    _, key = control.accounts.create_key("default", "app")
    assert (
        TestClient(control.app).get("/health", headers={"Authorization": f"Bearer {key}"}).status_code == 401
    )


def test_a_revoked_credential_is_refused(control: Control) -> None:
    record, secret = control.accounts.create_service_token("second")
    client = TestClient(control.app, headers={"Authorization": f"Bearer {secret}"})
    assert client.get("/health").status_code == 200
    control.accounts.revoke_service_token(record.id)
    assert client.get("/health").status_code == 401


def test_keys_from_making_to_revoking(control: Control) -> None:
    made = control.client.post("/v1/keys", json={"name": "app", "expires_in_days": 2})
    assert made.status_code == 201
    key = made.json()
    assert key["key"].startswith("sk-")
    assert abs(key["expires_ms"] - (time.time() + 2 * 86400) * 1000) < 60_000
    assert [policy.id for policy in control.policy().keys] == [key["id"]]
    listed = control.client.get("/v1/keys").json()["keys"]
    assert [entry["id"] for entry in listed] == [key["id"]]
    assert key["key"] not in control.client.get("/v1/keys").text
    assert control.client.delete(f"/v1/keys/{key['id']}").json()["revoked_ms"] > 0
    assert control.policy().keys == ()
    assert control.client.get("/v1/keys").json()["keys"] == []
    assert len(control.client.get("/v1/keys?with_revoked=true").json()["keys"]) == 1
    assert control.client.delete(f"/v1/keys/{key['id']}").status_code == 200  # a second time changes nothing


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"nme": "x"}, 422, "nme"),
        ({"name": 3}, 422, "name"),
        ({"name": ""}, 422, "name"),
        ({"name": "x\ny"}, 400, "name"),
        ({"name": "x", "expires_in_days": 0}, 422, "expires_in_days"),
        ({"name": "x", "tenant_id": "nobody"}, 404, "tenant_id"),
    ],
)
def test_a_wrong_key_request_names_its_field(
    control: Control, body: dict[str, Any], status: int, field: str
) -> None:
    answer = control.client.post("/v1/keys", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == field
    assert control.accounts.list_keys() == []


def test_malformed_json_is_told(control: Control) -> None:
    answer = control.client.post("/v1/keys", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "JSON" in answer.json()["error"]["message"]


def test_an_unknown_key_path_and_method_have_the_same_shape(control: Control) -> None:
    for answer, status in (
        (control.client.delete("/v1/keys/key_none"), 404),
        (control.client.get("/nothing"), 404),
        (control.client.put("/v1/keys", json={}), 405),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "code", "param"}


def test_status_models_and_metrics(control: Control) -> None:
    assert control.client.get("/v1/status").status_code == 404
    engine = ProcessStatus("engine-m-0", "engine", "waiting", 0, 3, "it died", 5, model="m", upstream="m-0")
    gateway = ProcessStatus("gateway", "gateway", "ready", 7, 0, "", 5)
    status = Status("1", 2, 3, "http://a", "http://b", (engine, gateway))
    Path(control.settings.status_file).write_bytes(msgspec.json.encode(status))
    told = control.client.get("/v1/status").json()
    assert told["ready"] is False
    assert told["processes"][0]["reason"] == "it died"
    text = control.client.get("/metrics").text
    assert 'sextant_engine_ready{model="m",upstream="m-0"} 0.0' in text
    assert 'sextant_engine_restarts_total{process="engine-m-0"} 3.0' in text
    assert control.client.get("/v1/models").status_code == 404
    table = RouteTable(1, (ServedModel("m", "embedded", (Upstream("m-0", "http://x/v1"),)),))
    Path(control.settings.routes_file).write_bytes(msgspec.json.encode(table))
    assert control.client.get("/v1/models").json()["models"][0]["id"] == "m"


def test_usage_of_an_empty_ledger_and_wrong_spans(control: Control) -> None:
    LedgerFile(control.settings.ledger_db).close()
    assert control.client.get("/v1/usage").json()["totals"] == []
    for query in ("since_ms=5&until_ms=5", "since_ms=9&until_ms=5", "since_ms=0&until_ms=99999999999999"):
        answer = control.client.get(f"/v1/usage?{query}")
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "since_ms"
    assert control.client.get("/v1/usage?since_ms=-1").status_code == 422


def test_openapi_is_there_behind_the_door(control: Control) -> None:
    paths = control.client.get("/openapi.json").json()["paths"]
    assert {"/v1/keys", "/v1/keys/{key_id}", "/v1/usage", "/v1/status", "/v1/models"} <= set(paths)
    assert control.client.get("/docs").status_code == 404
