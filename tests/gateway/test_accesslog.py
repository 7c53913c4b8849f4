"""The access log: one line a request, never the prompt, never in the way of serving."""

from __future__ import annotations

import io
import json
import threading

import pytest
from fake_engine import Exchange, FakeEngine, whole
from gateway_stack import stack

from sextant.gateway.accesslog import AccessLog, Line


async def test_one_line_a_request_without_prompt_key_or_answer(capsys: pytest.CaptureFixture[str]) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole(whole("the answer"))

    async with stack(FakeEngine(script), access_log=True) as s:
        ok = await s.chat(messages=[{"role": "user", "content": "the prompt"}])
        wrong = await s.chat(temperature=9)
        models = await s.client.get("/v1/models")
        await s.client.get("/health")
        await s.client.get("/ready")
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines() if "sextant.access" in line]
    assert [line["request_id"] for line in lines] == [r.headers["x-request-id"] for r in (ok, wrong, models)]
    assert [(line["endpoint"], line["status"], line["outcome"]) for line in lines] == [
        ("chat.completions", 200, "ok"),
        ("chat.completions", 400, "refused"),
        ("models", 200, "ok"),
    ]
    first = lines[0]
    assert (first["model"], first["tenant_id"], first["key_id"]) == ("nano", "tenant", "key")
    assert (first["input_tokens"], first["output_tokens"], first["peer"]) == (11, 3, "127.0.0.1")
    assert first["duration_ms"] >= first["ttft_ms"] >= 0
    assert {"time", "level", "process", "logger", "message"} <= set(first)
    for secret in ("the prompt", "the answer", "sk-test"):
        assert secret not in text


class StuckStream(io.StringIO):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.go.wait()
        return super().write(text)


def line(number: int) -> Line:
    return Line(1_795_000_000.1234, f"req_{number}", "chat.completions", 200, "ok", 1.5)


def test_a_stuck_stream_costs_lines_not_requests(caplog: pytest.LogCaptureFixture) -> None:
    stream = StuckStream()
    log = AccessLog(stream, queue_lines=3)
    log.add(line(0))
    assert stream.entered.wait(5)
    for number in range(1, 11):
        log.add(line(number))
    stream.go.set()
    log.close()
    written = [json.loads(text)["request_id"] for text in stream.getvalue().splitlines()]
    assert written == ["req_0", "req_1", "req_2", "req_3"]
    assert "7 access log lines were dropped" in caplog.text


def test_a_closed_stream_is_reported_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    stream.close()
    log = AccessLog(stream)
    log.add(line(1))
    log.close()
    assert "1 access log lines could not be written" in caplog.text


def test_lines_have_the_form_of_the_other_logs() -> None:
    stream = io.StringIO()
    log = AccessLog(stream)
    log.add(line(1))
    log.close()
    assert json.loads(stream.getvalue())["time"] == "2026-11-18T11:06:40.123Z"
