"""Making a plan true, against an admin API that keeps what it is given; the real one is in tests/app."""

from __future__ import annotations

from typing import Any

import pytest

from sextant.base.errors import BadRequest
from sextant.operations.importing.apply import HINT_CHARS, NAME_CHARS, apply_plan
from sextant.operations.importing.plan import (
    Ids,
    ImportPlan,
    PlannedKey,
    PlannedProject,
    PlannedTenant,
    key_id,
)

PLAN = ImportPlan(
    source="a test",
    tenants=(PlannedTenant("risk", "Risk", top_up_nano=5), PlannedTenant("web", "Web")),
    projects=(PlannedProject("web-site", "web", "Site"),),
    keys=(PlannedKey(key_id("a" * 64), "web", "web-site", "app\n" * 100, "a" * 64, "sk-" + "x" * 40),),
)


class FakeAdmin:
    """Keeps what is posted; refuses whatever goes to `wrong`."""

    def __init__(self, wrong: str = "") -> None:
        self.kept: dict[str, dict[str, dict[str, Any]]] = {"tenants": {}, "projects": {}, "keys": {}}
        self.top_ups: list[dict[str, Any]] = []
        self.wrong = wrong

    def all(self, target: str, noun: str) -> list[dict[str, Any]]:
        assert target.startswith(f"/v1/{noun}")
        return list(self.kept[noun].values())

    def call(self, method: str, target: str, body: Any = None) -> Any:
        assert method == "POST"
        if target == self.wrong:
            raise BadRequest("too much of it")
        noun = target.removeprefix("/v1/")
        if target.endswith("/top-ups"):
            self.top_ups.append(body)
        elif body["id"] in self.kept[noun]:
            raise BadRequest("there is one", code="exists")
        else:
            self.kept[noun][body["id"]] = body
        return body


def test_a_second_time_makes_nothing() -> None:
    admin = FakeAdmin()
    first = apply_plan(PLAN, admin)
    assert (len(first.made), first.kept) == (5, ())
    again = apply_plan(PLAN, admin)
    assert (again.made, len(again.kept)) == ((), 5)
    assert {top_up["id"] for top_up in admin.top_ups} == {"import"}


def test_an_import_cut_off_goes_on() -> None:
    admin = FakeAdmin(wrong="/v1/projects")
    with pytest.raises(BadRequest, match="project web-site: too much of it; correct it in the source"):
        apply_plan(PLAN, admin)
    admin.wrong = ""
    rest = apply_plan(PLAN, admin)
    assert rest.made == ("project web-site", f"key {key_id('a' * 64)}")
    assert len(rest.kept) == 3


def test_somebody_else_with_the_same_id_stops_it_before_anything() -> None:
    admin = FakeAdmin()
    admin.kept["tenants"]["web"] = {"id": "web", "name": "Spiders"}
    with pytest.raises(BadRequest, match="Nothing was changed"):
        apply_plan(PLAN, admin)
    assert list(admin.kept["tenants"]) == ["web"]


def test_names_and_hints_fit() -> None:
    admin = FakeAdmin()
    apply_plan(PLAN, admin)
    (key,) = admin.kept["keys"].values()
    assert key["name"].isprintable()
    assert len(key["name"]) <= NAME_CHARS
    assert len(key["hint"]) == HINT_CHARS


def test_ids_are_valid_unique_and_never_the_default_tenants() -> None:
    ids = Ids()
    names = ["Risk & Credit", "risk-credit", "default", "王伟", "x" * 100, "x" * 100, ""]
    made = [ids.of(name, f"source {number}") for number, name in enumerate(names)]
    assert made[0] == "risk-credit"
    assert len(set(made)) == len(made)
    assert "default" not in made
    for one in made:
        assert 1 <= len(one) <= 48
        assert one.isascii()
        assert one[0].isalnum()
    again = Ids()
    assert [again.of(name, f"source {number}") for number, name in enumerate(names)] == made
