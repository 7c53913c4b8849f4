"""Putting values back: what has nothing to put back passes byte for byte, and is told from what has."""

from __future__ import annotations

import json

import pytest
from fake_engine import Exchange, FakeEngine, whole
from gateway_stack import stack
from hypothesis import given
from hypothesis import strategies as st

from sextant.gateway import unmasking
from sextant.gateway.unmasking import Unmasking
from sextant.spec.policy import PrivacyPolicy

VALUES = {"PHONE_1": "13800138000", "SECRET_1": 'a"b\\c'}
PIECES = [
    "<",
    "PHONE",
    "_1",
    ">",
    "<PHONE_1>",
    "&lt;",
    "&",
    "lt;",
    "gt;",
    "SECRET_1",
    "\\",
    "u003c",
    "\\u003e",
]


def escaped(text: str) -> bytes:
    """JSON of `text` in which every character is written by its number, as JSON allows."""
    return ('"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"').encode()


def event(content: bytes, finish: bytes = b"null") -> bytes:
    return (
        b'{"id": "1",  "choices": [{"index": 0, "delta": {"content": '
        + content
        + b'}, "finish_reason": '
        + finish
        + b"}]}"
    )


def said(unmask: Unmasking, events: list[bytes]) -> str:
    parts = [json.loads(unmask.event(data))["choices"][0]["delta"] for data in events]
    return "".join(part.get("content") or "" for part in parts)


@given(
    st.lists(
        st.tuples(st.sampled_from([*PIECES, "text ", "\n", "电"]), st.integers(0, 2)), min_size=1, max_size=9
    )
)
def test_a_stream_reads_the_same_with_and_without_the_short_way(pieces):
    ways = (
        json.dumps,
        lambda text: json.dumps(text, ensure_ascii=False),
        lambda text: escaped(text).decode(),
    )
    events = [event(ways[way](text).encode()) for text, way in pieces]
    events.append(event(b'""', b'"stop"'))
    short = said(Unmasking(VALUES), events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unmasking, "may_begin_tokens", lambda written: True)
        assert short == said(Unmasking(VALUES), events)


def test_what_holds_nothing_to_put_back_is_the_same_object():
    unmask = Unmasking(VALUES)
    plain = event('"价格 5 > 3\\n"'.encode())
    assert unmask.event(plain) is plain
    begun = unmask.event(event(b'"<PHO"'))
    assert json.loads(begun)["choices"][0]["delta"]["content"] == ""
    ends = unmask.event(event(b'"NE_2"'))
    assert json.loads(ends)["choices"][0]["delta"]["content"] == "<PHONE_2"
    assert unmask.event(plain) is plain
    whole = b'{"choices":[ {"message":{"role":"assistant","content":"no token"}}]}'
    assert unmask.whole(whole) is whole


@pytest.mark.parametrize("content", [b'"\\u003cPHONE_1\\u003e"', b'"<PHONE\\u005f1>"', b'"&lt;PHONE_1&gt;"'])
def test_tokens_are_known_however_the_engine_writes_them(content):
    body = b'{"choices":[{"message":{"role":"assistant","content":' + content + b"}}]}"
    answer = json.loads(Unmasking(VALUES).whole(body))
    assert answer["choices"][0]["message"]["content"] == "13800138000"


async def say_ok(exchange: Exchange) -> None:
    await exchange.whole(whole("ok"))


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("打13800138000或139 0013 9000", "打<PHONE_1>或<PHONE_2>"),
        ("<PHONE_1> 打13800138000", "<PHONE_1> 打<PHONE_2>"),
        ("\\u003cPHONE_1\\u003e 打13800138000", "\\u003cPHONE_1\\u003e 打<PHONE_2>"),
        ("&lt;PHONE_1&gt; 打13800138000", "&lt;PHONE_1&gt; 打<PHONE_2>"),
    ],
)
async def test_one_look_masks_as_two_do(prompt, seen):
    """A policy that only masks looks once where the request can hold no token, else twice."""
    policies = (PrivacyPolicy(otherwise="mask"), PrivacyPolicy(otherwise="mask", actions={"PLATE": "block"}))
    for policy in policies:
        engine = FakeEngine(say_ok)
        async with stack(engine, clears_personal_data=False) as running:
            running.governor.privacy = policy
            answer = await running.chat(messages=[{"role": "user", "content": prompt}] * 2)
            assert answer.status_code == 200
            assert [m["content"] for m in engine.exchanges[0].body["messages"]] == [seen] * 2
            assert answer.headers["x-sextant-personal-data"] == "masked"
