"""What a tenant's own people may make is bounded, also for those who revoke as fast as they make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_under_test import Control

from sextant.control import bounds
from sextant.store.accounts_keys import MODEL_CHARACTERS_MAX


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    made = Control(tmp_path)
    made.client.post("/v1/tenants", json={"id": "acme"}).raise_for_status()
    made.client.post("/v1/tenants", json={"id": "other"}).raise_for_status()
    yield made
    made.close()


def test_a_tenants_people_make_so_many_keys(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "KEYS_OF_TENANT_MAX", 3)
    owner, body = control.token("owner", "acme"), {"tenant_id": "acme"}
    made = [owner.post("/v1/keys", json=body).json()["id"] for _ in range(3)]
    assert owner.delete(f"/v1/keys/{made[0]}").status_code == 200
    refused = owner.post("/v1/keys", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_keys"), "made today"
    assert control.client.post("/v1/keys", json=body).status_code == 201, "those who run it may"
    other = control.token("owner", "other")
    assert other.post("/v1/keys", json={"tenant_id": "other"}).status_code == 201
    assert control.accounts.count_keys("acme", 2**62) == 3, "revoked before: not counted"


def test_a_tenants_people_make_so_many_projects(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PROJECTS_OF_TENANT_MAX", 3)  # one is there from the start
    owner, body = control.token("owner", "acme"), {"tenant_id": "acme", "name": "p"}
    made = [owner.post("/v1/projects", json=body).json()["id"] for _ in range(2)]
    assert owner.delete(f"/v1/projects/{made[0]}").status_code == 200
    refused = owner.post("/v1/projects", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_projects"), "made today"
    assert control.client.post("/v1/projects", json=body).status_code == 201, "those who run it may"
    assert control.accounts.count_projects("acme", 2**62) == 3


def test_a_models_name_in_a_key_is_short(control: Control) -> None:
    owner = control.token("owner", "acme")
    for length, status in ((MODEL_CHARACTERS_MAX, 201), (MODEL_CHARACTERS_MAX + 1, 400)):
        made = owner.post("/v1/keys", json={"tenant_id": "acme", "models": ["m" * length]})
        assert made.status_code == status, made.text
