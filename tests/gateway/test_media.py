"""Images and sounds in requests, through every dialect: what is taken goes on untouched, what is not is
refused with its place."""

from __future__ import annotations

import json
from typing import Any

import pictures
import pytest
from fake_engine import HELLO, Exchange, FakeEngine, whole
from gateway_stack import LLAMA, Stack, limits, stack

from sextant.spec.snapshot import Capabilities

ABLE = Capabilities(vision=True, audio=True)
PNG = pictures.data_url(pictures.png())


async def answer(exchange: Exchange) -> None:
    if exchange.body.get("stream"):
        await exchange.stream(HELLO)
    else:
        await exchange.whole(whole())


def seeing(**more: Any) -> Any:
    return stack(FakeEngine(answer), **{"capabilities": ABLE, **more})


def image(url: Any = PNG, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def sound(data: Any, form: Any = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": form}}


def message(*parts: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": "look"}, *parts]}]


async def refusal(s: Stack, *parts: dict[str, Any], status: int = 400) -> dict[str, Any]:
    """The error of a request with these parts; the engine saw nothing and nothing stays open."""
    response = await s.chat(messages=message(*parts))
    assert response.status_code == status, response.text
    assert not s.engine.exchanges
    assert s.governor.open == 0
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize(
    "url",
    [
        PNG,
        pictures.data_url(pictures.jpeg(), "image/jpeg"),
        pictures.data_url(pictures.gif(), "image/gif"),
        pictures.data_url(pictures.webp(), "image/webp"),
        PNG.replace("data:image/png;base64", "DATA:Image/PNG;BASE64"),
    ],
)
async def test_an_image_goes_on_as_it_came(url: str) -> None:
    async with seeing() as s:
        body = json.dumps({"model": "nano", "messages": message(image(url, detail="low"))}, indent=1).encode()
        response = await s.client.post("/v1/chat/completions", content=body)
        assert response.status_code == 200
        assert s.engine.exchanges[0].raw == body


async def test_sounds_go_on_and_are_counted_by_kind() -> None:
    async with seeing() as s:
        parts = [sound(pictures.text(pictures.wav())), sound(pictures.text(pictures.mp3()), "mp3"), image()]
        async with s.chat_stream(messages=message(*parts)) as response:
            assert b"[DONE]" in await response.aread()
        assert s.engine.exchanges[0].body["messages"] == message(*parts)
        exposition = s.registry.exposition().decode()
        size_bytes = len(pictures.wav()) + len(pictures.mp3())
        assert 'sextant_gateway_media_parts_total{kind="audio",model="nano"} 2.0' in exposition
        assert f'sextant_gateway_media_bytes_total{{kind="audio",model="nano"}} {size_bytes}.0' in exposition
        assert 'sextant_gateway_media_parts_total{kind="image",model="nano"} 1.0' in exposition


async def test_an_image_is_no_text_when_the_prompt_is_estimated() -> None:
    """An engine that reports no usage: the prompt counts by its text, not by megabytes of base64."""

    async def silent(exchange: Exchange) -> None:
        await exchange.whole(whole(usage=None))

    async with stack(FakeEngine(silent), capabilities=ABLE) as s:
        big = pictures.data_url(pictures.png(tail=b"\0" * 400_000))
        assert (await s.chat(messages=message(image(big)))).status_code == 200
        claim, outcome = s.governor.rows[0]
        assert (claim.kinds, claim.input_tokens) == (("image",), 4096)
        assert outcome.usage.estimated
        assert outcome.usage.input_tokens < 100


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64," + pictures.text(pictures.png())[:-4], "invalid_image"),
        ("data:image/png;base64," + pictures.text(pictures.png())[:-3], "invalid_base64"),
        (pictures.data_url(pictures.png()) + "AAAA", "invalid_base64"),
        (PNG + "=", "invalid_base64"),
        (PNG.replace("=", "") if PNG.endswith("=") else PNG + "=", "invalid_base64"),
        (PNG + " ", "invalid_base64"),
        (PNG[:40] + "\n" + PNG[40:], "invalid_base64"),
        (PNG[:40] + "-_" + PNG[42:], "invalid_base64"),
        (PNG[:40] + "é" + PNG[41:], "invalid_base64"),
        ("data:image/png;base64,", "invalid_image"),
        (pictures.data_url(pictures.png(), "image/jpeg"), "media_type_mismatch"),
        (pictures.data_url(b"<svg/>", "image/svg+xml"), "unsupported_image"),
        (pictures.data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "invalid_image"),
        (pictures.data_url(b"%PDF-1.7", "application/pdf"), "unsupported_image"),
        (pictures.data_url(pictures.png(60_000, 60_000)), "image_too_large"),
        (pictures.data_url(pictures.png(0, 5)), "invalid_image"),
        ("data:image/png," + pictures.text(pictures.png()), "invalid_image"),
        ("data:image/png;charset=utf-8;base64,AAAA", "invalid_image"),
        ("data:" + "a" * 500, "invalid_image"),
        ("data:", "invalid_image"),
        ("", "invalid_url"),
        ("file:///etc/passwd", "invalid_url"),
        ("http://example.com/a.png", "invalid_url"),
        ("ftp://example.com/a.png", "invalid_url"),
        ("https:///a.png", "invalid_url"),
        ("https://user:password@example.com/a.png", "invalid_url"),
        ("https://example.com:8443/a.png", "invalid_url"),
        ("https://example.com:x/a.png", "invalid_url"),
        ("https://[::1/a.png", "invalid_url"),
        ("https://example.com/a b.png", "invalid_url"),
        ("https://example.com/a.png\r\nhost: x", "invalid_url"),
        ("https://exämple.com/a.png", "invalid_url"),
        ("https://example.com\\@inner/a.png", "invalid_url"),
        ("https://example.com/a.png", "url_not_allowed"),
        ("https://127.0.0.1/a.png", "url_not_allowed"),
        ("https://169.254.169.254/latest/meta-data", "url_not_allowed"),
        ("https://[::1]/a.png", "url_not_allowed"),
    ],
)
async def test_a_wrong_image_is_refused_by_place(url: str, code: str) -> None:
    async with seeing() as s:
        error = await refusal(s, image(), image(url))
        assert (error["code"], error["param"]) == (code, "messages[0].content[2].image_url.url")
        assert len(error["message"]) < 400


@pytest.mark.parametrize(
    ("part", "code"),
    [
        (sound(pictures.text(pictures.wav()), "mp3"), "media_type_mismatch"),
        (sound(pictures.text(pictures.wav()), "ogg"), "unsupported_audio"),
        (sound(pictures.text(pictures.wav()), ""), "unsupported_audio"),
        (sound(pictures.text(pictures.wav())[:-8]), "invalid_audio"),
        (sound(pictures.text(pictures.wav()) + "="), "invalid_base64"),
        (sound(""), "invalid_audio"),
    ],
)
async def test_a_wrong_sound_is_refused_by_place(part: dict[str, Any], code: str) -> None:
    async with seeing() as s:
        error = await refusal(s, part)
        assert (error["code"], error["param"]) == (code, "messages[0].content[1].input_audio.data")


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (image(None), "messages[0].content[1].image_url.url"),
        (image(7), "messages[0].content[1].image_url.url"),
        (image(PNG, detail="huge"), "messages[0].content[1].image_url.detail"),
        ({"type": "image_url", "image_url": PNG}, "messages[0].content[1].image_url"),
        ({"type": "image_url"}, "messages[0].content[1].image_url"),
        ({"type": "image_url", "image_url": {"url": [image()]}}, "messages[0].content[1].image_url.url"),
        ({"type": "video_url", "video_url": {"url": PNG}}, "messages[0].content[1].type"),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA"}},
            "messages[0].content[1].input_audio.format",
        ),
        ({"type": "input_audio", "input_audio": PNG}, "messages[0].content[1].input_audio"),
        ({"content": [image()]}, "messages[0].content[1].type"),
    ],
)
async def test_a_part_of_a_wrong_shape_is_refused_by_place(part: dict[str, Any], param: str) -> None:
    async with seeing() as s:
        assert (await refusal(s, part))["param"] == param


async def test_bounds_of_number_and_size() -> None:
    size_bytes = len(pictures.png(tail=b"\0" * 2000))
    part = image(pictures.data_url(pictures.png(tail=b"\0" * 2000)))
    bounds = limits(media_parts=3, media_part_bytes=size_bytes, media_bytes=3 * size_bytes)
    async with seeing(limits=bounds) as s:
        assert (await s.chat(messages=message(part, part, part))).status_code == 200
    async with seeing(limits=bounds) as s:
        error = await refusal(s, part, part, part, part)
        assert (error["code"], error["param"]) == ("too_many_media", "messages[0].content[4].image_url.url")
    for smaller in ({"media_part_bytes": size_bytes - 1}, {"media_bytes": 3 * size_bytes - 1}):
        async with seeing(limits=limits(**smaller)) as s:
            await refusal(s, part, part, part, status=413)
    async with seeing(limits=limits(media_part_bytes=100)) as s:
        await refusal(s, sound(pictures.text(pictures.wav(200))), status=413)
    async with seeing(limits=limits(media_pixels=4)) as s:
        assert (
            await s.chat(messages=message(image(pictures.data_url(pictures.png(2, 2)))))
        ).status_code == 200
    async with seeing(limits=limits(media_pixels=3)) as s:
        assert (await refusal(s, image()))["code"] == "image_too_large"


async def test_ten_thousand_parts_are_too_many() -> None:
    async with seeing() as s:
        assert (await refusal(s, *[image("data:image/png;base64,AAAA")] * 10_000))["code"] == "too_many_media"


async def test_what_a_model_does_not_read_is_refused_by_name() -> None:
    for capable, part, said in (
        (Capabilities(), image(), "text only"),
        (Capabilities(), sound("x"), "text only"),
        (Capabilities(vision=True), sound("x"), "no sound"),
        (Capabilities(audio=True), image(), "no images"),
        (ABLE, {"type": "file", "file": {"file_id": "f"}}, "no files"),
    ):
        async with seeing(capabilities=capable) as s:
            error = await refusal(s, part, status=422)
            assert said in error["message"]
            assert error["param"] == "messages[0].content[1].type"


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
async def test_only_the_user_and_tools_show_images(role: str) -> None:
    async with seeing() as s:
        messages = [*message(image(), role=role), {"role": "user", "content": "hi"}]
        response = await s.chat(messages=messages)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "messages[0].content[1].type"


async def test_a_remote_engine_that_fetches_for_itself_gets_the_url() -> None:
    async with seeing(media_urls="pass") as s:
        url = "https://images.example.com/cat.png?size=2&x=%20"
        assert (await s.chat(messages=message(image(url)))).status_code == 200
        assert s.engine.exchanges[0].body["messages"] == message(image(url))
    async with seeing(media_urls="pass") as s:
        assert (await refusal(s, image("http://images.example.com/cat.png")))["code"] == "invalid_url"
        for inside in (
            "127.0.0.1",
            "localhost",
            "[::1]",
            "169.254.169.254",
            "127.1",
            "0x7f.1",
            "%6cocalhost",
        ):
            error = await refusal(s, image(f"https://{inside}/cat.png"))
            assert error["code"] == "url_not_allowed"


async def test_responses_images() -> None:
    async with seeing(quirks=LLAMA) as s:
        content = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": PNG}]
        ask = {"model": "nano", "input": [{"role": "user", "content": content}]}
        assert (await s.client.post("/v1/responses", json=ask)).status_code == 200
        sent = s.engine.exchanges[0].body["messages"][0]["content"]
        assert sent == [{"type": "text", "text": "look"}, image()]
        content[1]["image_url"] = pictures.data_url(pictures.png(), "image/webp")
        response = await s.client.post("/v1/responses", json=ask)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("media_type_mismatch", "input[0].content[1].image_url")


async def test_messages_images() -> None:
    async with seeing(quirks=LLAMA) as s:
        source = {"type": "base64", "media_type": "image/png", "data": pictures.text(pictures.png())}
        content = [{"type": "text", "text": "look"}, {"type": "image", "source": source}]
        ask = {"model": "nano", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
        assert (await s.client.post("/v1/messages", json=ask)).status_code == 200
        sent = s.engine.exchanges[0].body["messages"][0]["content"]
        assert sent == [{"type": "text", "text": "look"}, image()]
        for wrong, field in (
            ({**source, "data": source["data"][:-5]}, "data"),
            ({**source, "media_type": "image/gif"}, "data"),
            ({"type": "url", "url": "https://example.com/a.png"}, "url"),
        ):
            content[1]["source"] = wrong
            response = await s.client.post("/v1/messages", json=ask)
            assert response.status_code == 400
            assert f"`messages[0].content[1].source.{field}`" in response.json()["error"]["message"]


async def test_images_of_a_tool_s_result_are_checked_as_well() -> None:
    async with seeing() as s:
        source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
        use = {"type": "tool_use", "id": "t", "name": "see", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": source}]}
        turns = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        ask = {"model": "nano", "max_tokens": 5, "messages": turns}
        response = await s.client.post("/v1/messages", json=ask)
        assert response.status_code == 400
        assert "messages[1].content[0].content[0].source.data" in response.json()["error"]["message"]
        assert not s.engine.exchanges
