"""Limits as headers: OpenAI's durations, Anthropic's moments, and what clients do with Retry-After."""

from __future__ import annotations

import datetime
import time

import pytest

from sextant.base.errors import Forbidden, InsufficientBalance, LimitsUnavailable, Overloaded, RateLimited
from sextant.gateway import failures
from sextant.gateway.limit_headers import anthropic_headers, duration, openai_headers
from sextant.governance.limits.limiter import Headroom


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, b"0s"), (1, b"1ms"), (999, b"999ms"), (1000, b"1s"), (1500, b"1.5s"), (59_999, b"59.999s"),
        (60_000, b"1m0s"), (60_001, b"1m1s"), (360_000, b"6m0s"), (3_630_000, b"1h0m30s"),
    ],
)  # fmt: skip
def test_a_reset_is_written_as_openai_does(ms: int, text: bytes) -> None:
    assert duration(ms) == text


def test_what_is_not_limited_is_not_told() -> None:
    assert openai_headers(None, None) == []
    assert dict(openai_headers(None, Headroom(600, 17, 120_000))) == {
        b"x-ratelimit-limit-tokens": b"600",
        b"x-ratelimit-remaining-tokens": b"17",
        b"x-ratelimit-reset-tokens": b"2m0s",
    }


def test_anthropic_is_told_the_moment() -> None:
    before_s = time.time()
    told = dict(anthropic_headers(Headroom(5, 0, 1500), None))
    assert told[b"anthropic-ratelimit-requests-limit"] == b"5"
    assert told[b"anthropic-ratelimit-requests-remaining"] == b"0"
    reset = datetime.datetime.fromisoformat(told[b"anthropic-ratelimit-requests-reset"].decode())
    assert before_s + 1.5 <= reset.timestamp() <= time.time() + 2.5


def test_retry_after_is_precise_and_a_long_wait_is_no_reason_to_retry() -> None:
    def told(wait_s: float | None) -> dict[bytes, bytes]:
        return dict(failures.extra_headers(RateLimited("x", retry_after_s=wait_s)))

    assert told(0.2) == {b"retry-after": b"1", b"retry-after-ms": b"200"}
    assert told(1.0001) == {b"retry-after": b"2", b"retry-after-ms": b"1001"}
    assert told(None) == {b"retry-after": b"1", b"retry-after-ms": b"1000"}
    assert told(60.0) == {b"retry-after": b"60", b"retry-after-ms": b"60000"}
    assert told(86_000.5) == {b"retry-after": b"86001", b"x-should-retry": b"false"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RateLimited("x"), 429),
        (InsufficientBalance("x"), 402),
        (Forbidden("x", code="tier_forbids"), 403),
        (LimitsUnavailable("x"), 503),
        (Overloaded("x", code="queue_displaced"), 503),
    ],
)
def test_statuses(error: RateLimited, status: int) -> None:
    assert failures.status_of(error) == status
    assert (b"retry-after" in dict(failures.extra_headers(error))) == (status in (429, 503))
