"""A real vLLM launched, used, killed, restarted, drained and stopped by `sextant up`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from vllm_stack import MODEL, Serve, Served

from stack_under_test import alive, until

RUNNING = "vllm:num_requests_running"
ABORTED = "vllm:request_success_total"
THREE_STARTS_S = 600.0
"""vLLM imports for half a minute on busy cores before it reads its arguments, and is started three times."""
LONG = 900
"""Tokens of an answer that is still going on whenever something happens to it."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def events(client: subprocess.Popen[str], count: int) -> list[str]:
    """The next `count` events' data; fewer when the stream ends before."""
    assert client.stdout is not None
    found: list[str] = []
    while len(found) < count and (line := client.stdout.readline()):
        if line.startswith("data: "):
            found.append(line.removeprefix("data: ").strip())
    return found


def test_an_answer_whole_and_as_a_stream(served: Served) -> None:
    whole = served.say("Tell me something.", max_tokens=24)
    assert whole.status == 200, whole.body
    answer = whole.json()
    assert answer["model"] == MODEL
    assert answer["usage"]["completion_tokens"] == 24
    assert answer["choices"][0]["finish_reason"] == "length"

    with served.stream("Tell me something.", max_tokens=24, stream_options={"include_usage": True}) as client:
        got = events(client, 1000)
    assert got[-1] == "[DONE]"
    chunks = [json.loads(data) for data in got[:-1]]
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert said == answer["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"]["completion_tokens"] == 24
    assert served.metrics()["vllm:generation_tokens_total"] >= 48


def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    before = served.metrics()
    with served.stream("Tell me something.", max_tokens=LONG) as client:
        assert len(events(client, 5)) == 5
        until(lambda: served.metrics()[RUNNING] == 1, "vLLM decodes it")
        client.kill()
    until(lambda: served.metrics()[RUNNING] == 0, "vLLM decodes nothing", 5.0)
    made = served.metrics()["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"]
    assert made < LONG  # it was stopped, not just done


def process_of(served: Served, name: str) -> int:
    """The engine's process of that name, as vLLM calls it; the API server is the first one."""
    processes = served.of_the_engine()
    return next(pid for pid, line in processes.items() if name in line)


@pytest.mark.parametrize("victim", [" serve ", "EngineCore", "Worker"])
def test_an_engine_killed_at_work_comes_back(served: Served, victim: str) -> None:
    served.wait_ready()
    before, old = served.engine(), served.of_the_engine()
    assert len(old) > 2  # server, core, worker
    with served.stream("Tell me something.", max_tokens=LONG) as client:
        assert len(events(client, 5)) == 5
        os.kill(process_of(served, victim), signal.SIGKILL)
        rest = events(client, 10_000)
    assert rest, "the stream broke off without a word"
    assert "[DONE]" not in rest
    assert "error" in json.loads(rest[-1])
    until(lambda: served.engine()["restarts"] == before["restarts"] + 1, "it is started again", 60.0)
    assert not any(map(alive, old))  # nothing of the old one is left

    early = served.say("Are you there?", max_tokens=4)
    assert early.status == 503, early.body
    served.wait_ready()


def test_stopping_lets_an_answer_end_and_leaves_nothing(served: Served) -> None:
    served.wait_ready()
    assert served.process is not None
    processes = served.of_the_engine()
    with served.stream("Tell me something.", max_tokens=400) as client:
        first = events(client, 5)
        served.process.send_signal(signal.SIGTERM)
        rest = events(client, 10_000)
    assert rest[-1] == "[DONE]"
    chunks = [json.loads(data) for data in [*first, *rest[:-1]]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert served.process.wait(60) == 0
    assert not any(map(alive, processes))


def test_an_engine_that_refuses_its_arguments_is_quoted(serve: Serve, model: Path) -> None:
    with serve(model, args=["--no-such-argument"]) as refused:
        assert refused.process is not None
        assert refused.process.wait(THREE_STARTS_S) != 0
        assert "unrecognized arguments: --no-such-argument" in refused.said(), refused.said()
