"""The surface: paths and methods, keys, models, balance, health, metrics, cross-origin, bad input."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from fake_engine import Exchange, FakeEngine, whole
from fake_governor import SECRET
from gateway_stack import limits, model, stack
from openai.types import Model

from sextant.base.errors import Forbidden, InsufficientBalance, LedgerUnavailable, RateLimited, SextantError
from sextant.spec.snapshot import RouteTable, ServedModel, Upstream
from strictness import read_strictly


async def hello(exchange: Exchange) -> None:
    await exchange.whole(whole())


HI = {"model": "nano", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions", "/beta/chat/completions"])
async def test_chat_is_found_bare_under_v1_and_under_beta(path: str) -> None:
    async with stack(FakeEngine(hello)) as s:
        assert (await s.client.post(path, json=HI)).status_code == 200
        assert s.engine.exchanges[0].target == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("POST", "/v2/chat/completions", 404, None),
        ("POST", "/v1/chat/completions/", 404, None),
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("DELETE", "/v1/models", 405, "GET, HEAD"),
        ("POST", "/health", 405, "GET, HEAD"),
        ("OPTIONS", "/v1/chat/completions", 405, "POST"),
        ("POST", "/models/nano", 405, "GET, HEAD"),
    ],
)
async def test_what_is_not_there(method: str, path: str, status: int, allow: str | None) -> None:
    async with stack(FakeEngine(hello)) as s:
        response = await s.client.request(method, path)
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers.get("allow") == allow


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("GET", "/anthropic/v1/messages/count_tokens", 405, "invalid_request_error"),
        ("GET", "/anthropic/v1/files", 404, "not_found_error"),
        ("POST", "/anthropic/v1/messages/batches", 404, "not_found_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
    ],
)
async def test_what_is_not_there_is_said_in_anthropic_s_words_on_its_paths(
    method: str, path: str, status: int, kind: str
) -> None:
    async with stack(FakeEngine(hello)) as s:
        response = await s.client.request(method, path)
        assert response.status_code == status
        body = response.json()
        assert (body["type"], body["error"]["type"]) == ("error", kind)
        assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/models", "/user/balance"])
async def test_head_is_answered_as_get_without_its_body(path: str) -> None:
    async with stack(FakeEngine(hello)) as s:
        whole = await s.client.get(path)
        head = await s.client.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert (await s.client.get(path)).status_code == 200, "the connection goes on"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Basic c2stdGVzdA=="},
        {"authorization": "Bearer sk-unknown"},
        {"authorization": SECRET},
        {"x-api-key": "sk-unknown"},
        {"authorization": "Bearer sk-unknown", "x-api-key": SECRET},
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/user/balance", "/v1/models/nano"])
async def test_without_a_known_key_it_is_401(path: str, headers: dict[str, str]) -> None:
    async with stack(FakeEngine(hello)) as s, httpx.AsyncClient(base_url=s.url) as client:
        if path.endswith("completions"):
            response = await client.post(path, json=HI, headers=headers)
        else:
            response = await client.get(path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["type"] == "authentication_error"
        assert SECRET not in response.text
        assert not [name for name in response.headers if "ratelimit" in name], "a stranger learns our load"
        assert s.engine.exchanges == []


@pytest.mark.parametrize("headers", [{"authorization": f"bearer {SECRET}"}, {"x-api-key": SECRET}])
async def test_both_ways_to_send_a_key(headers: dict[str, str]) -> None:
    async with stack(FakeEngine(hello)) as s, httpx.AsyncClient(base_url=s.url) as client:
        assert (await client.post("/v1/chat/completions", json=HI, headers=headers)).status_code == 200
        sent = s.engine.exchanges[0].headers
        assert "x-api-key" not in sent
        assert SECRET not in str(sent)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Forbidden("switched off"), 403),
        (InsufficientBalance("empty"), 402),
        (RateLimited("too fast", retry_after_s=12.3), 429),
        (LedgerUnavailable("no ledger"), 503),
    ],
)
async def test_governance_refuses(refusal: SextantError, status: int) -> None:
    async with stack(FakeEngine(hello)) as s:
        s.governor.refusal = refusal
        response = await s.chat()
        assert response.status_code == status
        assert response.json()["error"]["code"] == refusal.code
        expected = {429: "13", 503: "1"}.get(status)
        assert response.headers.get("retry-after") == expected
        assert s.engine.exchanges == []


BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "invalid_json"),
    (b"{", 400, "invalid_json"),
    (b"\xff\xfe{\x00}\x00", 400, "invalid_json"),
    (b'{"model":"nano","messages":[{"role":"user","content":"\xff"}]}', 400, "invalid_utf8"),
    (b'{"model":"nano","model":"nano","messages":[{"role":"user","content":"x"}]}', 400, "duplicate_key"),
    (b'{"model":"nano","messages":' + b"[" * 70 + b"]" * 70 + b"}", 400, "json_too_deep"),
    (b"[" * 100_000, 400, "json_too_deep"),
    (b'{"model":"nano","temperature":NaN}', 400, "invalid_json"),
    (b'{"messages":[]}', 400, "invalid_value"),
    (b'{"model":5}', 400, "invalid_value"),
    (b'{"model":"gpt-9","messages":[{"role":"user","content":"x"}]}', 404, "model_not_found"),
    (b'{"model":"nano","messages":[]}', 400, "invalid_value"),
]


@pytest.mark.parametrize(("body", "status", "code"), BODIES, ids=lambda value: str(value)[:40])
async def test_bad_bodies(body: bytes, status: int, code: str) -> None:
    async with stack(FakeEngine(hello)) as s:
        response = await s.client.post("/v1/chat/completions", content=body)
        assert response.status_code == status
        assert response.json()["error"]["code"] == code
        assert s.engine.exchanges == []
        assert s.governor.open == 0


async def test_a_compressed_body_is_415_and_a_large_one_413() -> None:
    async with stack(FakeEngine(hello), limits=limits(body_bytes=1000)) as s:
        response = await s.client.post(
            "/v1/chat/completions", content=b"\x1f\x8b", headers={"content-encoding": "gzip"}
        )
        assert response.status_code == 415
        assert response.headers["accept-encoding"] == "identity"
        response = await s.client.post("/v1/chat/completions", content=b"x" * 1001)
        assert response.status_code == 413
        assert s.engine.exchanges == []


async def test_errors_are_raised_as_the_openai_client_s_own() -> None:
    async with stack(FakeEngine(hello)) as s:
        client = openai.AsyncOpenAI(api_key=SECRET, base_url=s.url + "/v1", max_retries=0)
        messages: Any = [{"role": "user", "content": "hi"}]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="nano", messages=messages, temperature=5)
        assert caught.value.param == "temperature"
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="gpt-9", messages=messages)
        assert missing.value.code == "model_not_found"
        assert missing.value.request_id is not None
        with pytest.raises(openai.UnprocessableEntityError):
            await client.completions.create(model="nano", prompt="a", suffix="b")
        s.governor.refusal = RateLimited("slow down")
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="nano", messages=messages)
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="sk-no").models.list()
        await client.close()


async def test_models_are_listed_with_their_aliases_and_found_by_id() -> None:
    async with stack(FakeEngine(hello), aliases=("deepseek-chat", "org/name:7b")) as s:
        for path in ("/models", "/v1/models"):
            listed = (await s.client.get(path)).json()
            assert listed["object"] == "list"
            for entry in listed["data"]:
                read_strictly(Model, entry)
            assert [entry["id"] for entry in listed["data"]] == ["nano", "deepseek-chat", "org/name:7b"]
        assert (await s.client.get("/v1/models/nano")).json() == listed["data"][0]
        assert (await s.client.get("/models/org/name:7b")).json()["id"] == "org/name:7b"
        assert (await s.client.get("/models/org%2Fname%3A7b")).json()["id"] == "org/name:7b"
        response = await s.client.get("/models/none")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"


async def test_an_alias_with_a_star_stands_for_all_names_that_begin_so() -> None:
    async with stack(FakeEngine(hello), aliases=("claude-*", "claude-haiku-9")) as s:
        response = await s.client.post("/v1/chat/completions", json={**HI, "model": "claude-opus-4-5"})
        assert (response.status_code, response.json()["model"]) == (200, "claude-opus-4-5")
        assert s.engine.exchanges[0].body["model"] == "nano"
        listed = (await s.client.get("/v1/models")).json()["data"]
        assert [entry["id"] for entry in listed] == ["nano", "claude-haiku-9"]
        assert (await s.client.get("/v1/models/claude-x")).json()["id"] == "claude-x"
        for unknown in ("claude", "xclaude-opus"):
            response = await s.client.post("/v1/chat/completions", json={**HI, "model": unknown})
            assert response.status_code == 404


async def test_the_answer_names_the_model_asked_for() -> None:
    async with stack(FakeEngine(hello), upstream_model="engine-name") as s:
        for name in ("nano", "deepseek-reasoner"):
            response = await s.client.post("/v1/chat/completions", json={**HI, "model": name})
            assert response.json()["model"] == name
        assert [exchange.body["model"] for exchange in s.engine.exchanges] == ["engine-name"] * 2
        assert {claim.model for claim, _ in s.governor.rows} == {"nano"}


async def test_balance_without_and_with_prepayment() -> None:
    async with stack(FakeEngine(hello)) as s:
        for currency in ("CNY", "USD"):
            s.governor.funds = (currency, None)
            assert (await s.client.get("/user/balance")).json() == {
                "is_available": True,
                "balance_infos": [
                    {
                        "currency": currency,
                        "total_balance": "0.00",
                        "granted_balance": "0.00",
                        "topped_up_balance": "0.00",
                    }
                ],
            }
        s.governor.funds = ("CNY", 110_009_999_999)
        assert (await s.client.get("/user/balance")).json() == {
            "is_available": True,
            "balance_infos": [
                {
                    "currency": "CNY",
                    "total_balance": "110.00",
                    "granted_balance": "0.00",
                    "topped_up_balance": "110.00",
                }
            ],
        }
        s.governor.funds = ("CNY", 0)
        assert (await s.client.get("/user/balance")).json()["is_available"] is False


async def test_health_and_readiness_need_no_key() -> None:
    async with stack(FakeEngine(hello)) as s, httpx.AsyncClient(base_url=s.url) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        ready = await client.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["models"][0]["upstreams"] == [{"id": "u0", "ready": True}]
        s.governor.ready = False
        red = await client.get("/ready")
        assert (red.status_code, red.json()["ledger"]) == (503, False)
        assert red.headers["retry-after"]
        s.governor.ready = True
        why = "exit status 1: RuntimeError: cannot log in with token hf_Secret; see /srv/models/run.log"
        down = Upstream(id="u0", base_url=s.engine.base_url, ready=False, reason=why)
        s.app.swap_routes(RouteTable(2, (ServedModel(id="nano", engine="x", upstreams=(down,)),)))
        red = await client.get("/ready")
        assert red.status_code == 503
        kind = "it ended and is started again"
        assert red.json()["models"][0]["upstreams"] == [{"id": "u0", "ready": False, "reason": kind}]
        response = await s.chat()
        assert response.status_code == 503
        assert response.json()["error"]["message"] == f"No engine is ready for 'nano': {kind}."
        for said in (red.text, response.text):
            assert "hf_Secret" not in said and "/srv" not in said
        assert response.headers["retry-after"]
        assert (await client.get("/health")).status_code == 200


async def test_routes_are_swapped_whole_and_requests_under_way_end_on_the_old_ones() -> None:
    async with stack(FakeEngine(hello)) as s:
        assert (await s.chat()).status_code == 200
        s.app.swap_routes(RouteTable(2, (model([s.engine], id="other", aliases=()),)))
        assert (await s.chat()).status_code == 404
        assert (await s.chat(model="other")).status_code == 200
        assert s.app.routes.version == 2


async def test_an_upstream_whose_key_cannot_be_read_is_not_ready() -> None:
    async with stack(FakeEngine(hello)) as s:
        bad = Upstream(id="u0", base_url=s.engine.base_url, api_key_ref="file:/nonexistent/engine.key")
        s.app.swap_routes(RouteTable(2, (ServedModel(id="nano", engine="x", upstreams=(bad,)),)))
        assert (await s.chat()).status_code == 503
        text = (await s.client.get("/ready")).text
        assert "/nonexistent" not in text


async def test_the_engine_gets_its_own_key(tmp_path: Any) -> None:
    key = tmp_path / "key"
    key.write_text("sk-engine\n")
    key.chmod(0o600)
    async with stack(FakeEngine(hello)) as s:
        upstream = Upstream(id="u0", base_url=s.engine.base_url, api_key_ref=f"file:{key}")
        s.app.swap_routes(RouteTable(2, (ServedModel(id="nano", engine="x", upstreams=(upstream,)),)))
        assert (await s.chat()).status_code == 200
        assert s.engine.exchanges[0].headers["authorization"] == "Bearer sk-engine"


async def test_every_answer_carries_the_limit_headers() -> None:
    async with stack(FakeEngine(hello), limits=limits(concurrent_requests=5)) as s:
        headers = (await s.chat()).headers
        assert headers["x-ratelimit-limit-requests"] == "5"
        assert headers["x-ratelimit-remaining-requests"] == "5"
        assert headers["x-ratelimit-reset-requests"] == "0s"
        assert (await s.chat(temperature=5)).headers["x-ratelimit-limit-requests"] == "5"


async def test_metrics_name_what_happened() -> None:
    async with stack(FakeEngine(hello)) as s, httpx.AsyncClient(base_url=s.url) as client:
        await s.chat()
        await s.chat(temperature=9)
        response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = response.text.splitlines()
        for expected in (
            'sextant_gateway_requests_total{endpoint="chat.completions",status="200"} 1.0',
            'sextant_gateway_requests_total{endpoint="chat.completions",status="400"} 1.0',
            'sextant_gateway_errors_total{code="invalid_value",endpoint="chat.completions"} 1.0',
            'gen_ai_client_token_usage_tokens_total{model="nano",type="input"} 11.0',
            'gen_ai_client_token_usage_tokens_total{model="nano",type="output"} 3.0',
            "gen_ai_server_request_duration_seconds_count"
            '{endpoint="chat.completions",model="nano",outcome="ok"} 1.0',
            'inference_latency_seconds_count{model="nano"} 1.0',
            'sextant_engine_ready{model="nano",upstream="u0"} 1.0',
            "sextant_gateway_ready 1.0",
        ):
            assert expected in lines, expected


# cross-origin requests

ORIGIN = {"origin": "https://app.example"}


async def test_cross_origin_is_off_by_default() -> None:
    async with stack(FakeEngine(hello)) as s:
        response = await s.client.post("/v1/chat/completions", json=HI, headers=ORIGIN)
        assert response.status_code == 200
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", [("https://app.example",), ("*",)])
async def test_cross_origin_where_configured(origins: tuple[str, ...]) -> None:
    async with (
        stack(FakeEngine(hello), cors_origins=origins) as s,
        httpx.AsyncClient(base_url=s.url) as client,
    ):
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,x-foo",
        }
        preflight = await client.options("/v1/chat/completions", headers={**ORIGIN, **asked})
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-headers"] == "authorization,x-foo"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        expected = "*" if origins == ("*",) else ORIGIN["origin"]
        for headers in ({**ORIGIN, "authorization": f"Bearer {SECRET}"}, ORIGIN):
            response = await client.post("/v1/chat/completions", json=HI, headers=headers)
            assert response.headers["access-control-allow-origin"] == expected
            assert response.headers["vary"] == "origin"


async def test_a_foreign_origin_gets_no_permission() -> None:
    async with stack(FakeEngine(hello), cors_origins=("https://app.example",)) as s:
        for method in ("OPTIONS", "POST"):
            response = await s.client.request(
                method,
                "/v1/chat/completions",
                content=json.dumps(HI),
                headers={"origin": "https://evil.example"},
            )
            assert not [name for name in response.headers if name.startswith("access-control")]
