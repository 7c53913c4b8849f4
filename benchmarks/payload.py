"""The one request that every server is asked, and the one answer that the static upstream gives.

The prompt is 600 bytes; the answer is a chat completion of realistic length with usage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MODEL = "deepseek-chat"
PROMPT_BYTES = 600
PATH = "/v1/chat/completions"
SENTENCE = "The night shift wrote that pump four ran warm after the valve was changed, then settled. "
PERSONAL = "Call 13812345678 or write to wang.li@example.com when it is done. "
REPLY = (
    "Pump four ran warm because the new valve opens later than the old one, so the first minutes of each "
    "cycle run against a closed line. It settles once the controller has learned the new opening time. Three "
    "steps: read the opening time of the valve from its data sheet, enter it as the delay of cycle four, and "
    "watch the casing temperature over two cycles. If it stays under 55 degrees, nothing else is needed; if "
    "not, check the seal."
)


def prompt(*, personal: bool = False) -> str:
    """Exactly `PROMPT_BYTES` bytes of plain ASCII; `personal`: with two pieces of personal data."""
    begin = PERSONAL if personal else ""
    return (begin + SENTENCE * (PROMPT_BYTES // len(SENTENCE) + 1))[:PROMPT_BYTES]


def body(
    *,
    stream: bool,
    max_tokens: int = 256,
    extra: Mapping[str, Any] | None = None,
    personal: bool = False,
) -> bytes:
    """The JSON request body."""
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt(personal=personal)}],
        "max_tokens": max_tokens,
        "temperature": 0.7,
    }
    if stream:
        request["stream"] = True
        request["stream_options"] = {"include_usage": True}
    request.update(extra or {})
    return json.dumps(request).encode()


def http_request(content: bytes, headers: Mapping[str, str]) -> bytes:
    """The whole HTTP/1.1 request as the load generators write it."""
    lines = [f"POST {PATH} HTTP/1.1", "host: bench.local", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(content)}", "", ""]
    return "\r\n".join(lines).encode() + content


def answer() -> str:
    """The static upstream's chat completion, as DeepSeek sends it."""
    return json.dumps(
        {
            "id": "5f0c2b7e-9d1a-4c63-8b1e-7d2f30a4c9e1",
            "object": "chat.completion",
            "created": 1790000000,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": REPLY},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 141,
                "completion_tokens": 103,
                "total_tokens": 244,
                "prompt_tokens_details": {"cached_tokens": 64},
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 77,
            },
            "system_fingerprint": "fp_bench",
        }
    )


def check_answer(raw: bytes) -> str | None:
    """None when `raw` is the upstream's answer in all that matters to a caller, else what is wrong."""
    try:
        got = json.loads(raw)
        want = json.loads(answer())
        choice = got["choices"][0]
        if choice["message"]["content"] != REPLY:
            return "the answer's text is not the upstream's"
        if choice["finish_reason"] != "stop":
            return f"finish_reason is {choice['finish_reason']!r}, expected 'stop'"
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            if got["usage"][name] != want["usage"][name]:
                return f"usage.{name} is {got['usage'][name]}, expected {want['usage'][name]}"
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return f"not a chat completion ({error!r}): {raw[:200]!r}"
    return None
