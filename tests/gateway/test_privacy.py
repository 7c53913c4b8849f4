"""Personal data through the real gateway: an engine that repeats what it was sent, cut wherever it can be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fake_engine import USAGE, Exchange, FakeEngine, chunk, usage_chunk, whole
from gateway_stack import COMPLIANT, LLAMA, Stack, model, stack

from sextant.gateway.prompt_strings import rewrite
from sextant.governance.holders import holders
from sextant.spec.policy import KeyPolicy, PrivacyPolicy, TenantPolicy
from sextant.spec.snapshot import Capabilities, PolicySnapshot, RouteTable

MASK = PrivacyPolicy(otherwise="mask", opt_in=("NAME",))
TEXT = '患者张伟先生，身份证 11010519491231002X，电话 138-0013-8000；password="Hu<n>ter2&x"'
KEPT = ("11010519491231002X", "138-0013-8000", "Hu<n>ter2&x")


def messages(text: str = TEXT) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def told(exchange: Exchange) -> str:
    """All that the engine was sent."""
    return exchange.raw.decode()


async def echo(exchange: Exchange) -> None:
    """Says what the last message says, a character a chunk."""
    content = exchange.body["messages"][-1]["content"]
    if not exchange.body.get("stream"):
        await exchange.whole(whole(content))
        return
    events = [chunk(character) for character in content]
    await exchange.stream([*events, chunk(finish="stop"), usage_chunk()])


@pytest.fixture(params=[COMPLIANT, LLAMA], ids=["compliant", "llama"])
async def shielded(request) -> AsyncIterator[Stack]:
    engine = FakeEngine(echo)
    async with stack(engine, quirks=request.param, clears_personal_data=False) as running:
        running.governor.privacy = MASK
        yield running


def said_whole(answer: httpx.Response) -> str:
    """The text of a whole chat answer."""
    return answer.json()["choices"][0]["message"]["content"]


def said(lines: str) -> str:
    """The text of a chat stream."""
    events = [line[6:] for line in lines.splitlines() if line.startswith("data: ") and line[6:] != "[DONE]"]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def test_masked_on_the_way_and_back_in_a_whole_answer(shielded):
    answer = await shielded.chat(messages=messages())
    assert answer.status_code == 200
    assert said_whole(answer) == TEXT
    assert answer.headers["x-sextant-personal-data"] == "masked"
    sent = told(shielded.engine.exchanges[0])
    assert not any(value in sent for value in (*KEPT, "Hu<n>", "张伟"))
    assert "<CN_ID_1>" in sent and "<PHONE_1>" in sent and "<SECRET_1>" in sent and "<NAME_1>" in sent


async def test_masked_on_the_way_and_back_in_a_stream_of_characters(shielded):
    answer = await shielded.chat(messages=messages(), stream=True)
    assert said(answer.text) == TEXT
    assert answer.text.rstrip().endswith("data: [DONE]")


async def test_every_cut_in_two_gives_the_same_text(shielded):
    prompt = "电话13800138000，<PHONE_1>"
    masked = "电话<PHONE_2>，<PHONE_1>"
    cuts = iter([(at,) for at in range(len(masked) + 1)])

    async def cut(exchange: Exchange) -> None:
        content = exchange.body["messages"][-1]["content"]
        assert content == masked
        (at,) = next(cuts)
        pieces = [content[:at], content[at:]]
        await exchange.stream(
            [*(chunk(piece) for piece in pieces if piece), chunk(finish="stop"), usage_chunk()]
        )

    shielded.engine.script = cut
    for _ in range(len(masked) + 1):
        answer = await shielded.chat(messages=messages(prompt), stream=True)
        assert said(answer.text) == prompt


async def test_nothing_found_goes_on_as_the_same_bytes():
    async with stack(FakeEngine(echo), clears_personal_data=False) as running:
        running.governor.privacy = MASK
        body = b'{ "model":"nano","messages":[{"role":"user","content":"order 20240911"}]}'
        answer = await running.client.post("/v1/chat/completions", content=body)
        assert answer.status_code == 200
        assert running.engine.exchanges[0].raw == body
        assert "x-sextant-personal-data" not in answer.headers


@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_cleared_model_sees_all_unless_the_policy_says_everywhere(everywhere):
    async with stack(FakeEngine(echo)) as running:
        running.governor.privacy = PrivacyPolicy(otherwise="mask", everywhere=everywhere)
        await running.chat(messages=messages())
        assert (KEPT[0] in told(running.engine.exchanges[0])) is not everywhere


async def test_block_names_the_type_and_never_the_value(shielded):
    shielded.governor.privacy = PrivacyPolicy(otherwise="mask", actions={"CN_ID": "block"})
    answer = await shielded.chat(messages=messages())
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "personal_data_blocked"
    assert "CN_ID" in error["message"]
    assert not any(value in answer.text for value in KEPT)
    assert shielded.engine.exchanges == []
    assert shielded.governor.open == 0


async def test_what_is_allowed_goes_through_beside_what_is_masked(shielded):
    shielded.governor.privacy = PrivacyPolicy(otherwise="mask", actions={"PHONE": "allow"})
    await shielded.chat(messages=messages())
    sent = told(shielded.engine.exchanges[0])
    assert "138-0013-8000" in sent and "<CN_ID_1>" in sent


async def test_own_patterns_and_a_policy_that_cannot_be_used(shielded):
    shielded.governor.privacy = PrivacyPolicy(patterns={"MRN": r"MRN-(\d{6})"}, actions={"MRN": "mask"})
    answer = await shielded.chat(messages=messages("see MRN-123456 and 13800138000"))
    assert "see MRN-<MRN_1> and 13800138000" in told(shielded.engine.exchanges[0])
    assert said_whole(answer) == "see MRN-123456 and 13800138000"
    shielded.governor.privacy = PrivacyPolicy(otherwise="mask", patterns={"MRN": "("})
    answer = await shielded.chat(messages=messages("hi"))
    assert answer.status_code == 500
    assert "privacy policy cannot be used" in answer.json()["error"]["message"]
    assert len(shielded.engine.exchanges) == 1


async def test_what_is_set_aside_covers_the_masked_prompt(shielded):
    shielded.governor.privacy = PrivacyPolicy(
        patterns={"RECORD_OF_A_HOSPITAL": r"H\d{4}"}, actions={"RECORD_OF_A_HOSPITAL": "mask"}
    )
    await shielded.chat(messages=messages(" ".join(f"H{number}" for number in range(1000, 1100))))
    ((claim, _),) = shielded.governor.rows
    assert claim.input_tokens >= len(shielded.engine.exchanges[0].raw)


async def test_findings_are_counted(shielded):
    await shielded.chat(messages=messages())
    metrics = shielded.registry.exposition().decode()
    assert 'sextant_privacy_findings_total{action="mask",type="CN_ID"} 1.0' in metrics


async def test_every_place_of_a_chat_request_is_masked(shielded):
    phone = "13800138000"
    arguments = json.dumps({"n": 13900139000, "\u7535\u8bdd": [phone], phone: {"deep": f"x {phone}"}})
    function = {
        "name": "call",
        "description": f"calls {phone}",
        "parameters": {"enum": [phone], "type": "string"},
    }
    body = [
        {"role": "system", "content": phone},
        {"role": "user", "content": [{"type": "text", "text": phone}], "name": phone},
        {
            "role": "assistant",
            "content": phone,
            "reasoning_content": phone,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "call", "arguments": arguments}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": json.dumps({"v": f"a\n{phone}"})},
        {"role": "user", "content": phone},
    ]
    answer = await shielded.chat(
        messages=body, tools=[{"type": "function", "function": function}], user=phone, stop=[phone]
    )
    assert answer.status_code == 200, answer.text
    sent = shielded.engine.exchanges[0].body
    assert phone not in json.dumps(sent)
    assert "13900139000" not in json.dumps(sent)
    given = json.loads(sent["messages"][2]["tool_calls"][0]["function"]["arguments"])
    assert given["<PHONE_1>"] == {"deep": "x <PHONE_1>"}
    assert given["n"] == "<PHONE_2>"
    assert sent["messages"][1]["name"] == "PHONE_1"
    assert sent["messages"][2]["tool_calls"][0]["id"] == "c1"


ANSWER = {
    "reasoning": "see <SECRET_1>",
    "text": "it is <SECRET_1>.",
    "arguments": '{"key": "<SECRET_1>", "n": "\\u003cSECRET_1\\u003e"}',
}


async def say_parts(exchange: Exchange) -> None:
    """Reasoning, text, then a tool call, one character a chunk; or all at once."""
    call = {"id": "c9", "type": "function", "function": {"name": "use", "arguments": ANSWER["arguments"]}}
    if not exchange.body.get("stream"):
        answer = whole(ANSWER["text"])
        answer["choices"][0]["message"] |= {"reasoning_content": ANSWER["reasoning"], "tool_calls": [call]}
        answer["choices"][0]["finish_reason"] = "tool_calls"
        await exchange.whole(answer)
        return
    events = [chunk(delta={"reasoning_content": c}) for c in ANSWER["reasoning"]]
    events += [chunk(c) for c in ANSWER["text"]]
    begun = {"index": 0, "id": "c9", "type": "function", "function": {"name": "use", "arguments": ""}}
    events.append(chunk(delta={"tool_calls": [begun]}))
    events += [
        chunk(delta={"tool_calls": [{"index": 0, "function": {"arguments": c}}]}) for c in ANSWER["arguments"]
    ]
    await exchange.stream([*events, chunk(finish="tool_calls"), usage_chunk()])


VALUE = "Zx9qQ7-secret"
PROMPT = f"password: {VALUE}"


@pytest.fixture
async def parts(shielded) -> Stack:
    shielded.engine.script = say_parts
    return shielded


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_text_and_tool_arguments_in_chat(parts, stream):
    answer = await parts.chat(messages=messages(PROMPT), stream=stream)
    if stream:
        deltas = [c["delta"] for event in events_of(answer.text) for c in event["choices"]]
        reasoning = "".join(delta.get("reasoning_content") or "" for delta in deltas)
        text = "".join(delta.get("content") or "" for delta in deltas)
        pieces = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
        arguments = "".join(piece.get("arguments") or "" for piece in pieces)
    else:
        message = answer.json()["choices"][0]["message"]
        reasoning, text = message["reasoning_content"], message["content"]
        arguments = message["tool_calls"][0]["function"]["arguments"]
    assert (reasoning, text) == (f"see {VALUE}", f"it is {VALUE}.")
    assert json.loads(arguments) == {"key": VALUE, "n": VALUE}
    assert VALUE not in told(parts.engine.exchanges[0])


@pytest.mark.parametrize("stream", [False, True])
async def test_the_responses_dialect(parts, stream):
    body = {"model": "nano", "input": PROMPT, "stream": stream}
    answer = await parts.client.post("/v1/responses", json=body)
    assert VALUE not in told(parts.engine.exchanges[0])
    final = events_of(answer.text)[-1]["response"] if stream else answer.json()
    reasoning, message, call = final["output"]
    assert reasoning["content"][0]["text"] == f"see {VALUE}"
    assert message["content"][0]["text"] == f"it is {VALUE}."
    assert json.loads(call["arguments"]) == {"key": VALUE, "n": VALUE}
    if stream:
        deltas = [e["delta"] for e in events_of(answer.text) if e["type"] == "response.output_text.delta"]
        assert "".join(deltas) == f"it is {VALUE}."


@pytest.mark.parametrize("stream", [False, True])
async def test_the_anthropic_dialect(parts, stream):
    body = {
        "model": "nano",
        "messages": messages(PROMPT),
        "max_tokens": 50,
        "system": PROMPT,
        "stream": stream,
    }
    answer = await parts.client.post("/v1/messages", json=body)
    assert VALUE not in told(parts.engine.exchanges[0])
    if stream:
        deltas = [e["delta"] for e in events_of(answer.text) if e["type"] == "content_block_delta"]
        assert "".join(d.get("thinking", "") for d in deltas) == f"see {VALUE}"
        assert "".join(d.get("text", "") for d in deltas) == f"it is {VALUE}."
        assert json.loads("".join(d.get("partial_json", "") for d in deltas)) == {"key": VALUE, "n": VALUE}
    else:
        thinking, text, call = answer.json()["content"]
        assert (thinking["thinking"], text["text"]) == (f"see {VALUE}", f"it is {VALUE}.")
        assert call["input"] == {"key": VALUE, "n": VALUE}


async def test_a_token_that_never_ends_leaves_with_the_end(shielded):
    async def unfinished(exchange: Exchange) -> None:
        await exchange.stream([chunk("it is <PHONE"), chunk(finish="stop"), usage_chunk()])

    shielded.engine.script = unfinished
    answer = await shielded.chat(messages=messages("13800138000"), stream=True)
    assert said(answer.text) == "it is <PHONE"


async def test_text_completions_and_their_echo():
    async def say(exchange: Exchange) -> None:
        prompt = exchange.body["prompt"]
        pieces = [{"index": 0, "text": c, "logprobs": None, "finish_reason": None} for c in prompt]
        pieces[-1]["finish_reason"] = "stop"
        head = {"id": "c", "object": "text_completion", "created": 1, "model": "nano"}
        await exchange.stream([*({**head, "choices": [piece]} for piece in pieces), usage_chunk()])

    async with stack(FakeEngine(say), clears_personal_data=False) as running:
        running.governor.privacy = MASK
        body = {"model": "nano", "prompt": "call 13800138000 <PHONE_9", "stream": True}
        answer = await running.client.post("/v1/completions", json=body)
        texts = [c["text"] for event in events_of(answer.text) for c in event["choices"]]
        assert "".join(texts) == "call 13800138000 <PHONE_9"
        assert running.engine.exchanges[0].body["prompt"] == "call <PHONE_1> <PHONE_9"
        refused = await running.client.post("/v1/completions", json={**body, "prompt": [1, 2, 3]})
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "personal_data_unreadable"


async def test_embeddings_and_rerank():
    async def answer(exchange: Exchange) -> None:
        if exchange.target.endswith("embeddings"):
            data = [{"embedding": [0.5], "index": n} for n in range(len(exchange.body["input"]))]
            await exchange.whole({"data": data, "usage": USAGE})
        else:
            await exchange.whole({"results": [{"index": 0, "relevance_score": 0.5}], "usage": USAGE})

    able = Capabilities(embeddings=True, rerank=True)
    async with stack(FakeEngine(answer), clears_personal_data=False, capabilities=able) as running:
        running.governor.privacy = MASK
        body: dict[str, Any] = {"model": "nano", "input": ["13800138000", "x"]}
        assert (await running.client.post("/v1/embeddings", json=body)).status_code == 200
        body = {"model": "nano", "query": "13800138000", "documents": ["a@qq.com"], "return_documents": True}
        ranked = await running.client.post("/v1/rerank", json=body)
        assert ranked.json()["results"][0]["document"] == {"text": "a@qq.com"}
        one, two = (exchange.body for exchange in running.engine.exchanges)
        assert one["input"] == ["<PHONE_1>", "x"]
        assert (two["query"], two["documents"]) == ("<PHONE_1>", ["<EMAIL_1>"])


async def test_an_image_address_with_personal_data_is_refused():
    able = Capabilities(vision=True)
    async with stack(
        FakeEngine(echo), clears_personal_data=False, capabilities=able, media_urls="pass"
    ) as running:
        running.governor.privacy = MASK
        url = {"type": "image_url", "image_url": {"url": "https://example.com/u/a@qq.com.png?mail=a@qq.com"}}
        answer = await running.chat(messages=[{"role": "user", "content": [url]}])
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "personal_data_blocked"
        assert "a@qq.com" not in answer.text


async def test_route_sends_it_to_a_cleared_model_and_the_rest_where_it_was():
    safe = FakeEngine(echo)
    async with safe, stack(FakeEngine(echo), clears_personal_data=False) as running:
        running.governor.privacy = PrivacyPolicy(otherwise="route")
        refused = await running.chat(messages=messages())
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "personal_data_no_route"
        remote = running.app.routes.models[0]
        inside = model([safe], LLAMA, id="inside", aliases=(), upstream_model=None)
        running.app.swap_routes(RouteTable(2, (remote, inside)))
        answer = await running.chat(messages=messages())
        assert answer.status_code == 200
        assert answer.headers["x-sextant-personal-data"] == "routed"
        assert said_whole(answer) == TEXT
        assert answer.json()["model"] == "nano"
        assert safe.exchanges[0].body["model"] == "inside"
        assert running.governor.rows[-1][0].model == "inside"
        await running.chat(messages=messages("hi"))
        assert (len(safe.exchanges), len(running.engine.exchanges)) == (1, 1)
        running.governor.privacy = PrivacyPolicy(
            otherwise="mask", actions={"CN_ID": "route"}, everywhere=True
        )
        answer = await running.chat(messages=messages())
        assert said_whole(answer) == TEXT
        sent = told(safe.exchanges[1])
        assert KEPT[0] in sent and "<PHONE_1>" in sent


def test_what_does_not_change_is_not_copied():
    image = {"url": "data:image/png;base64,13800138000"}
    fields = {
        "model": "13800138000",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": image}, {"type": "text", "text": "x"}],
            }
        ],
    }
    assert rewrite(fields, str) is fields
    new = rewrite(fields, str.upper)
    assert new["messages"][0]["content"][0]["image_url"] is image
    assert new["messages"][0]["content"][1]["text"] == "X"
    assert new["model"] == "13800138000"
    assert fields["messages"][0]["content"][1]["text"] == "x"


def test_a_tenants_policy_reaches_its_keys() -> None:
    digest = "0" * 63
    tenants = (TenantPolicy("a", "a", privacy=MASK), TenantPolicy("b", "b"))
    keys = (KeyPolicy("ka", "a", f"{digest}1"), KeyPolicy("kb", "b", f"{digest}2"))
    held = {
        holder.principal.key_id: holder.principal for _, holder in holders(PolicySnapshot(1, tenants, keys))
    }
    assert held["ka"].privacy == MASK
    assert held["kb"].privacy is None
