"""The examination over HTTP: held-out problems asked of a served model at temperature 0, judged by `checks`.

It knows the OpenAI chat protocol only, so it measures what a client gets: engine, template, parser and
gateway.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sextant.workshop.nano.checks import Reply, accepts
from sextant.workshop.nano.curriculum import FAMILIES, GOAL_FAMILIES, held_out
from sextant.workshop.nano.problem import LANGUAGES, Problem

SEED = 2026
GOAL = 0.98
TIMEOUT_S = 120.0
MAX_TOKENS = 700


@dataclass(frozen=True)
class Examination:
    """Where to ask, and how much."""

    base_url: str
    key: str = "none"
    model: str = "sextant-nano"
    problems: int = 500
    concurrency: int = 8
    families: tuple[str, ...] = ()
    out: Path | None = None
    show: int = 0
    thinking: bool = True


@dataclass(frozen=True)
class Outcome:
    """One judged answer."""

    problem: Problem
    reply: Reply
    right: bool
    completion_tokens: int


def ask(examination: Examination, problem: Problem) -> Outcome:
    """Ask one problem. Raises urllib.error.URLError when the service cannot be reached."""
    body: dict[str, Any] = {
        "model": examination.model,
        "messages": list(problem.messages),
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    if problem.tools:
        body["tools"] = list(problem.tools)
        body["parallel_tool_calls"] = True
    if not examination.thinking:
        body["chat_template_kwargs"] = {"enable_thinking": False}
    request = urllib.request.Request(
        examination.base_url.rstrip("/") + "/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {examination.key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise RuntimeError(
            f"{request.full_url} answered {error.code}: {error.read()[:300]!r}; check --base-url and --key"
        ) from error
    message = answer["choices"][0]["message"]
    calls = tuple(
        (c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()
    )
    reply = Reply(message.get("content") or "", calls)
    used = (answer.get("usage") or {}).get("completion_tokens", 0)
    return Outcome(problem, reply, accepts(problem.check, reply, problem.expected), used)


def measure(examination: Examination) -> dict[str, Any]:
    """Accuracy per family and language, with the counts it stands on."""
    table: dict[str, dict[str, Any]] = {}
    started = time.monotonic()
    completion_tokens = 0
    with ThreadPoolExecutor(examination.concurrency) as threads:
        for family in examination.families or tuple(FAMILIES):
            for language in LANGUAGES:
                problems = list(held_out(SEED, family, language, examination.problems))
                outcomes = list(threads.map(lambda p: ask(examination, p), problems))
                right = sum(o.right for o in outcomes)
                completion_tokens += sum(o.completion_tokens for o in outcomes)
                table.setdefault(family, {})[language] = {
                    "right": right,
                    "asked": len(outcomes),
                    "accuracy": round(right / max(1, len(outcomes)), 4),
                }
                print(
                    f"{family:14} {language}  {right}/{len(outcomes)}  {right / max(1, len(outcomes)):.1%}",
                    file=sys.stderr,
                    flush=True,
                )
                _show([o for o in outcomes if not o.right][: examination.show])
    seconds = time.monotonic() - started
    return {
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seed": SEED,
        "temperature": 0,
        "thinking": examination.thinking,
        "accuracy": table,
        "seconds": round(seconds, 1),
        "completion_tokens": completion_tokens,
        "goal": GOAL,
        "goal_met": all(
            table[f][lang]["accuracy"] >= GOAL for f in GOAL_FAMILIES if f in table for lang in LANGUAGES
        ),
    }


def _show(wrong: list[Outcome]) -> None:
    for outcome in wrong:
        asked = outcome.problem.messages[-1]["content"]
        told = {"asked": asked, "expected": outcome.problem.expected, "got": outcome.reply}
        print("".join(f"    {k:9}{v!r}\n" for k, v in told.items()), end="", file=sys.stderr, flush=True)


def main(examination: Examination) -> None:
    """Measure, write the result, and end with one line of JSON; exit 1 when the goal is missed."""
    result = measure(examination)
    text = json.dumps(result, ensure_ascii=False)
    if examination.out:
        examination.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(text)
    sys.exit(0 if result["goal_met"] else 1)
