"""JSON log lines, and what must never be in them."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from sextant.telemetry.logs import MESSAGE_CHARS, JsonFormatter, redact, start_logging

SECRET = "Zq7pL0vT9xW2mK4s"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, ours = logging.getLogger(), logging.getLogger("sextant")
    before = list(root.handlers), root.level, ours.level, warnings.showwarning
    stream = io.StringIO()
    start_logging("gateway", level="info", stream=stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:], root.level, ours.level, warnings.showwarning = before
    logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_object_a_line(stream: io.StringIO) -> None:
    logging.getLogger("sextant.gateway.flow").info(
        "served %s\nin two lines", "chat", extra={"status": 200, "model": "nano", "tokens": {"in": 3}}
    )
    (line,) = lines(stream)
    assert line["message"] == "served chat\nin two lines"
    assert (line["level"], line["process"], line["logger"]) == ("info", "gateway", "sextant.gateway.flow")
    assert (line["status"], line["model"], line["tokens"]) == (200, "nano", {"in": 3})
    assert line["time"].endswith("Z")


def test_time_is_utc() -> None:
    record = logging.makeLogRecord({"msg": "x", "created": 1_700_000_000.0625})
    assert json.loads(JsonFormatter("p").format(record))["time"] == "2023-11-14T22:13:20.062Z"


def test_level_is_ours_and_libraries_are_quiet(stream: io.StringIO) -> None:
    logging.getLogger("sextant.app").debug("below")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")
    assert [line["message"] for line in lines(stream)] == ["trouble"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bad value 11010519491231002X", "bad value <CN_ID>"),
        ("手机１３８００１３８０００ 不对", "手机<PHONE> 不对"),
        ("two: a@qq.com, 6222021234567890128", "two: <EMAIL>, <BANK_CARD>"),
        ("client_secret: 'Zq7pL0vT9xW2'", "client_secret: '***'"),
        ("req_0123456789 took 1700000000000 ms from 10.1.2.3:55012", None),
    ],
)
def test_personal_data_is_redacted(stream: io.StringIO, text: str, said: str | None) -> None:
    logging.getLogger("sextant.test").error("%s", text, extra={"detail": [text]})
    (line,) = lines(stream)
    assert line["message"] == (said or text)
    assert line["detail"] == [said or text]


@pytest.mark.parametrize(
    "text",
    [
        f"key sk-{SECRET} refused",
        f"Authorization: Bearer {SECRET}",
        f"authorization: basic {SECRET}==",
        f"GET https://user:{SECRET}@host/path",
        f"GET /v1/models?api_key={SECRET}&x=1",
        f"password={SECRET}",
        f"hf_{SECRET}",
        f"eyJhbGciOiJI.{SECRET}.{SECRET}",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}",
    ],
)
def test_secrets_are_redacted_wherever_they_come_from(stream: io.StringIO, text: str) -> None:
    log = logging.getLogger("sextant.test")
    log.error(text)
    log.error("with argument %s", text)
    log.error("with extra", extra={"detail": text, "nested": {"list": [text]}})
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("raised")
    assert len(lines(stream)) == 4
    assert SECRET not in stream.getvalue()
    assert "***" in redact(text)


def test_secret_fields_are_redacted_by_name(stream: io.StringIO) -> None:
    logging.getLogger("sextant.test").info(
        "call",
        extra={"authorization": SECRET, "headers": {"Cookie": SECRET, "api_key": SECRET, "accept": "*/*"}},
    )
    (line,) = lines(stream)
    assert SECRET not in stream.getvalue()
    assert line["headers"]["accept"] == "*/*"


@pytest.mark.parametrize(
    "text", ["max_tokens=5", "a task-based plan", "http://127.0.0.1:8000/v1", "keep the token"]
)
def test_plain_text_stays(text: str) -> None:
    assert redact(text) == text


def test_long_messages_are_cut(stream: io.StringIO) -> None:
    logging.getLogger("sextant.test").info("x" * (MESSAGE_CHARS + 1))
    (line,) = lines(stream)
    assert len(line["message"]) == MESSAGE_CHARS
    assert line["message"].endswith("…")


def test_starting_again_replaces(stream: io.StringIO) -> None:
    again = io.StringIO()
    start_logging("ledger", stream=again)
    logging.getLogger("sextant.test").info("once")
    assert stream.getvalue() == ""
    assert [line["process"] for line in lines(again)] == ["ledger"]


def test_objects_that_are_no_json_become_text(stream: io.StringIO) -> None:
    logging.getLogger("sextant.test").info("x", extra={"where": sys, "items": (1, None, {2.5})})
    (line,) = lines(stream)
    assert line["where"].startswith("<module 'sys'")
    assert line["items"] == [1, None, [2.5]]
