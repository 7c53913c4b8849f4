"""Log-probabilities as published, from engines that give them in a form of their own.

Flow 1 (serve), for engines whose answers are completed: entries keep the published fields, as many
alternatives as were asked for (an engine may give twenty unasked), and only the tokens of the text they stand
beside: reasoning has its own list, as DeepSeek publishes it, and tags such as `</think>` have none. Text
completions have the older columns. Pure functions; neighbours: `chat.py` and `completions.py`.
"""

from __future__ import annotations

from typing import Any

_PUBLISHED = ("token", "logprob", "bytes")


def entries_of(logprobs: Any, top: int) -> list[dict[str, Any]] | None:
    """The token entries of an engine's `logprobs` in chat form, cut to the published fields; None where
    there are none."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return None
    entries = []
    for given in content:
        entry = {name: given.get(name) for name in _PUBLISHED}
        entry["top_logprobs"] = [
            {name: other.get(name) for name in _PUBLISHED}
            for other in (given.get("top_logprobs") or ())[:top]
        ]
        entries.append(entry)
    return entries


def of_delta(logprobs: Any, delta: dict[str, Any], top: int) -> dict[str, Any] | None:
    """For one streamed delta: its tokens are those of its text, or of its reasoning."""
    entries = entries_of(logprobs, top)
    if entries is None:
        return None
    if delta.get("content"):
        return {"content": entries, "refusal": None}
    if delta.get("reasoning_content"):
        return {"content": None, "refusal": None, "reasoning_content": entries}
    return None


def of_message(logprobs: Any, message: dict[str, Any], top: int) -> dict[str, Any] | None:
    """For a whole message: the tokens that spell its content, and those that spell its reasoning."""
    entries = entries_of(logprobs, top)
    if entries is None:
        return None
    answer: dict[str, Any] = {
        "content": _spelling(entries, message.get("content") or "", from_end=True),
        "refusal": None,
    }
    reasoning = message.get("reasoning_content")
    if reasoning:
        answer["reasoning_content"] = _spelling(entries, reasoning, from_end=False)
    return answer


def _spelling(entries: list[dict[str, Any]], text: str, *, from_end: bool) -> list[dict[str, Any]]:
    """The entries whose bytes cover `text`; none when it cannot be found among them."""
    spelled = [bytes(entry["bytes"] or ()) for entry in entries]
    wanted = text.encode()
    whole = b"".join(spelled)
    begin = whole.rfind(wanted) if from_end else whole.find(wanted)
    if not wanted or begin < 0:
        return []
    found, at = [], 0
    for entry, piece in zip(entries, spelled, strict=True):
        if at < begin + len(wanted) and at + len(piece) > begin:
            found.append(entry)
        at += len(piece)
    return found


def as_columns(logprobs: Any, top: int, offset: int) -> dict[str, Any] | None:
    """Chat-form log-probabilities as the columns of text completions; `offset` is where the text begins."""
    entries = entries_of(logprobs, top)
    if entries is None:
        return None
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {other["token"]: other["logprob"] for other in entry["top_logprobs"]} for entry in entries
        ],
        "text_offset": offsets,
    }
