"""Routing: weights, readiness, and marks that move a failed upstream behind the others."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from sextant.base.errors import Misconfigured, NotFound
from sextant.gateway import router as router_module
from sextant.gateway.router import FIRST_REST_S, LONGEST_REST_S, NOT_READY, ModelRoute, RouteIndex
from sextant.governance.door import Reach
from sextant.spec.snapshot import RouteTable, ServedModel, Upstream


def secret(reference: str) -> str:
    if reference == "env:NONE":
        raise Misconfigured("NONE is not set")
    return "sk-" + reference


def upstream(name: str, **more: object) -> Upstream:
    return Upstream(id=name, base_url=f"http://{name}:1/v1", **more)  # type: ignore[arg-type]


ANYBODY = Reach()


def index(*upstreams: Upstream, former: RouteIndex | None = None) -> RouteIndex:
    model = ServedModel(id="m", engine="x", upstreams=upstreams, aliases=("alias",))
    return RouteIndex(RouteTable(1, (model,)), secret, former)


def picked(route: ModelRoute, times: int = 3000) -> Counter[str]:
    targets = [route.pick() for _ in range(times)]
    return Counter(target.upstream.id for target in targets if target is not None)


def test_a_model_is_found_by_id_and_alias() -> None:
    found = index(upstream("a"))
    assert found.of(ANYBODY).find("m") is found.of(ANYBODY).find("alias")
    with pytest.raises(NotFound) as caught:
        found.of(ANYBODY).find("x" * 500)
    assert len(caught.value.message) < 300
    assert "alias" in caught.value.message


def test_weights() -> None:
    found = index(upstream("a", weight=300), upstream("b", weight=100), upstream("c", weight=0))
    counts = picked(found.of(ANYBODY).find("m"))
    assert counts["c"] == 0
    assert 0.65 < counts["a"] / 3000 < 0.85


def test_weights_of_zero_alone_still_serve() -> None:
    found = index(upstream("a", weight=0), upstream("b", weight=0))
    assert set(picked(found.of(ANYBODY).find("m"))) == {"a", "b"}


def test_what_is_not_ready_is_never_asked() -> None:
    found = index(upstream("a", ready=False), upstream("b"), upstream("c", api_key_ref="env:NONE"))
    route = found.of(ANYBODY).find("m")
    assert set(picked(route, 50)) == {"b"}
    only = index(upstream("a", ready=False)).of(ANYBODY).find("m")
    assert only.pick() is None
    assert not only.ready


def test_a_failed_target_comes_last_and_is_still_tried() -> None:
    route = index(upstream("a"), upstream("b")).of(ANYBODY).find("m")
    a, b = route.targets
    a.failed()
    assert set(picked(route, 50)) == {"b"}
    assert route.pick((b,)) is a
    b.failed()
    assert set(picked(route, 50)) == {"a", "b"}
    assert route.pick((a, b)) is None
    a.succeeded()
    assert set(picked(route, 50)) == {"a"}


def test_the_only_target_is_tried_once_whatever_its_marks() -> None:
    route = index(upstream("a")).of(ANYBODY).find("m")
    (a,) = route.targets
    a.failed()
    assert route.pick() is a
    assert route.pick((a,)) is None


def test_the_rest_doubles_to_a_bound() -> None:
    (a,) = index(upstream("a")).of(ANYBODY).find("m").targets
    now_s = time.monotonic()
    a.failed()
    assert a.resting(now_s)
    assert not a.resting(now_s + FIRST_REST_S + 1)
    for _ in range(2000):
        a.failed()
    assert a.resting(now_s + LONGEST_REST_S - 1)
    assert not a.resting(now_s + LONGEST_REST_S + 1)


def test_marks_outlive_a_new_table_unless_the_engine_moved() -> None:
    first = index(upstream("a"), upstream("b"))
    first.of(ANYBODY).find("m").targets[0].failed()
    second = index(upstream("a"), upstream("b", weight=1), former=first)
    assert set(picked(second.of(ANYBODY).find("m"), 50)) == {"b"}
    moved = Upstream(id="a", base_url="http://a:2/v1")
    third = index(moved, upstream("b"), former=second)
    assert set(picked(third.of(ANYBODY).find("m"), 100)) == {"a", "b"}


def test_headers_and_paths_are_prepared() -> None:
    found = index(Upstream(id="a", base_url="https://host/api/v3/", api_key_ref="env:K"))
    (a,) = found.of(ANYBODY).find("m").targets
    assert a.base_url == "https://host"
    assert a.path("/chat/completions") == b"/api/v3/chat/completions"
    assert (b"authorization", b"Bearer sk-env:K") in a.headers


def test_a_key_that_no_header_can_hold_makes_its_upstream_unready_and_leaves_the_table_whole() -> None:
    models = tuple(
        ServedModel(id=name, engine="x", upstreams=(upstream(name, api_key_ref=reference),))
        for name, reference in (("good", "env:KEY"), ("bad", "env:KÉY"))
    )
    index = RouteIndex(RouteTable(version=1, models=models), secret)
    assert index.of(ANYBODY).find("good").ready
    assert not index.of(ANYBODY).find("bad").ready
    assert index.of(ANYBODY).find("bad").targets[0].reason == "its key has characters that no header can hold"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("", ""),
        ("it is starting", "it is starting"),
        ("it is starting again; before: exit status 1: SECRET", "it ended and is started again"),
        ("it has not been asked yet", "it is starting"),
        ("exit status 78: SECRET", "it ended and is started again"),
        ("killed by SIGKILL: SECRET", "it ended and is started again"),
        ("cannot be started: SECRET", "it cannot be started"),
        ("not ready within 5 s: SECRET", "it did not become ready in time and is started again"),
        ("it hung: SECRET, for 9 s", "it hung and is started again"),
        ("its work stands still: SECRET", "it hung and is started again"),
        ("it leaks memory: 9.00 GB in use", "it took too much memory and is started again"),
        ("health check: SECRET", "its health check fails"),
        ("the health check was answered 401", "its health check fails"),
        ("no answer within 2 s", "it does not answer"),
        ("nothing listens there", "it does not answer"),
        ("it is stopped", "it is stopped"),
        ("SECRET: anything else", NOT_READY),
    ],
)
def test_callers_are_told_the_kind_of_reason_alone(reason: str, told: str) -> None:
    found = index(Upstream(id="a", base_url="http://a/v1", ready=False, reason=reason))
    (target,) = found.of(ANYBODY).find("m").targets
    assert target.reason == told


def test_everybody_sees_what_he_may_use() -> None:
    def served(name: str, **more: Any) -> ServedModel:
        return ServedModel(id=name, engine="x", upstreams=(), **more)

    shared = served("m", aliases=("alias", "m-*"))
    dedicated = served("m", pool="pro", aliases=("alias", "m-*"))
    table = RouteTable(1, (shared, dedicated, served("own", tenants=("t",)), served("pro-only", pool="pro")))
    found = RouteIndex(table, secret)

    def names(reach: Reach) -> list[str]:
        return list(found.of(reach).by_name)

    assert names(Reach("t")) == ["m", "alias"]
    assert names(Reach("t", own_models=True)) == ["m", "alias", "own"]
    assert names(Reach("u", own_models=True)) == ["m", "alias"]
    assert names(Reach("t", "pro")) == ["m", "alias", "pro-only"]
    assert names(Reach("t", models=frozenset(("own",)), own_models=True)) == ["own"]
    assert names(Reach("t", models=frozenset())) == []
    for name in ("m", "alias", "m-2026"):
        assert found.of(Reach("t")).find(name).served is shared
        assert found.of(Reach("t", "pro")).find(name).served is dedicated
        assert found.of(Reach("t", "other")).find(name).served is shared
    with pytest.raises(NotFound) as caught:
        found.of(Reach("t")).find("own")
    assert "pro-only" not in caught.value.message
    assert caught.value.message.endswith("known models: alias, m.")
    assert [route.served for route in found.named("alias")] == [shared, dedicated]
    gates = {id(route.gate) for route in found.routes}
    assert len(gates) == 4, "each pool has places of its own"


def test_views_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "VIEWS_REMEMBERED", 3)
    found = index(upstream("a"))
    for number in range(10):
        assert found.of(Reach(str(number))).find("m")
        assert len(found._views) <= 3
