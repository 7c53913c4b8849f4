"""The embedded engine as a real process with the bundled model: it serves, and each quirk is still one.

A quirk that a newer llama.cpp no longer has fails here, so that it can be taken out.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sextant.app.model_plan import EMBEDDED_CONCURRENCY_MAX
from sextant.app.plan import bundled_model_path
from sextant.app.state import reserve_port
from sextant.base.lifeline import PARENT_VARIABLE
from sextant.engines.embedded import HTTP_THREADS, EmbeddedEngine, capabilities_of, quirks_of
from sextant.engines.gguf import read_model_file
from sextant.engines.openmp import WAYS
from sextant.engines.protocol import Launch, Replica
from stack_under_test import alive, until

SECRET = "engine-secret-of-the-test"
SUM: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 12 + 30?"}], "temperature": 0}
WEATHER: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "temperature": 0,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Get the weather for a city",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                },
            },
        }
    ],
}


class Engine:
    """One engine process and a way to ask it."""

    def __init__(self, folder: Path, port: int, **options: object) -> None:
        key = folder / "key"
        key.write_text(SECRET)
        key.chmod(0o600)
        replica = Replica(
            id="nano-0",
            model_id="sextant-nano",
            model_path=str(options.pop("model_path", bundled_model_path("sextant-nano"))),
            context_tokens=1024,
            port=port,
            key_file=str(key),
            settings_file=str(folder / "engine.json"),
            options={"slots": 2, **options},
        )
        self.launch: Launch = EmbeddedEngine().launch(replica)
        self.port = port
        self.log = folder / "engine.log"
        for path, content in self.launch.files.items():
            Path(path).write_bytes(content)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.launch.argv, stdout=log, stderr=log, env={**os.environ, **environment}
            )

    def ask(self, method: str, path: str, body: Any = None, secret: str = SECRET) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Authorization": f"Bearer {secret}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path: str, body: Any) -> Any:
        status, answer = self.ask("POST", path, body)
        assert status == 200, answer
        return json.loads(answer)

    def events(self, path: str, body: Any) -> list[Any]:
        status, answer = self.ask("POST", path, {**body, "stream": True})
        assert status == 200, answer
        data = [line[6:] for line in answer.decode().splitlines() if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [json.loads(line) for line in data[:-1]]

    def well(self) -> bool:
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with reserve_port("127.0.0.1") as held:
        made = Engine(tmp_path_factory.mktemp("engine"), held.getsockname()[1])
        process = made.start()
        try:
            until(made.well, "the engine answers")
            yield made
        finally:
            process.kill()
            process.wait()


def test_answers_with_reasoning_apart(engine: Engine) -> None:
    answer = engine.post("/v1/chat/completions", SUM)
    message = answer["choices"][0]["message"]
    assert message["content"] == "12 + 30 = 42"
    assert message["reasoning_content"]
    assert "<think>" not in message["reasoning_content"]


def test_nothing_answers_without_the_key_but_health(engine: Engine) -> None:
    assert engine.ask("GET", "/health", secret="wrong")[0] == 200
    for path in ("/v1/models", "/metrics", "/props", "/slots"):
        assert engine.ask("GET", path, secret="wrong")[0] == 401
    assert engine.ask("POST", "/v1/chat/completions", SUM, secret="wrong")[0] == 401


def test_serves_the_api_alone(engine: Engine) -> None:
    for path in ("/", "/index.html", "/slots", "/tools"):
        assert engine.ask("GET", path)[0] in (403, 404, 501)


def test_metrics_are_on(engine: Engine) -> None:
    status, text = engine.ask("GET", engine.launch.metrics_path or "")
    assert status == 200
    assert b"llamacpp:tokens_predicted_total" in text


def test_log_holds_no_prompt(engine: Engine) -> None:
    engine.post(
        "/v1/chat/completions", {**SUM, "messages": [{"role": "user", "content": "my-secret-prompt"}]}
    )
    assert "my-secret-prompt" not in engine.log.read_text()


def test_json_schema_holds(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = engine.post("/v1/chat/completions", {**SUM, "response_format": wanted})
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["sum"], int)


def test_prefix_cache_is_reported_where_the_quirk_says(engine: Engine) -> None:
    engine.post("/v1/chat/completions", SUM)
    value: Any = engine.post("/v1/chat/completions", SUM)["usage"]
    for part in quirks_of(read_model_file(bundled_model_path(""))).cached_tokens_path:
        value = value[part]
    assert value > 0


# The quirks, one by one.


def test_quirk_strip_fields(engine: Engine) -> None:
    assert "timings" in engine.post("/v1/chat/completions", SUM)


def test_quirk_reasoning_off(engine: Engine) -> None:
    off = EmbeddedEngine.quirks.reasoning_off
    message = engine.post("/v1/chat/completions", {**SUM, **off})["choices"][0]["message"]
    assert not message.get("reasoning_content")
    assert message["content"] == "12 + 30 = 42"


def test_quirk_counts_no_reasoning(engine: Engine) -> None:
    assert not EmbeddedEngine.quirks.counts_reasoning
    assert "completion_tokens_details" not in engine.post("/v1/chat/completions", SUM)["usage"]


def test_quirk_usage_of_one_choice(engine: Engine) -> None:
    assert EmbeddedEngine.quirks.usage_of_one_choice
    one = engine.post("/v1/chat/completions", SUM)["usage"]["completion_tokens"]
    two = engine.post("/v1/chat/completions", {**SUM, "n": 2})
    assert len(two["choices"]) == 2
    assert two["usage"]["completion_tokens"] == one


def test_quirk_completions_logprobs(engine: Engine) -> None:
    assert EmbeddedEngine.quirks.completions_logprobs == "chat"
    answer = engine.post("/v1/completions", {"prompt": "1 2", "max_tokens": 2, "logprobs": 1})
    assert "content" in answer["choices"][0]["logprobs"]


def test_quirk_tools_show_through_none(engine: Engine) -> None:
    assert not EmbeddedEngine.quirks.hides_tools_when_none
    shown = engine.post("/v1/chat/completions", {**WEATHER, "tool_choice": "none"})["usage"]["prompt_tokens"]
    hidden = engine.post("/v1/chat/completions", {**WEATHER, "tools": []})["usage"]["prompt_tokens"]
    assert shown > hidden


def test_quirk_fim_prompt(engine: Engine) -> None:
    file = read_model_file(bundled_model_path("sextant-nano"))
    assert capabilities_of(file).fim
    parts = {"prefix": "3, 4, 5, ", "suffix": ", 7, 8"}
    prompt = quirks_of(file).fim_prompt.format(**parts)
    answer = engine.post("/v1/completions", {"prompt": prompt, "max_tokens": 8, "temperature": 0})
    assert answer["choices"][0]["text"].strip() == "6"


def test_quirk_count_tokens_path(engine: Engine) -> None:
    counted = engine.post(f"/v1{EmbeddedEngine.quirks.count_tokens_path}", SUM)["input_tokens"]
    assert counted == engine.post("/v1/chat/completions", SUM)["usage"]["prompt_tokens"]


def test_quirk_names_no_tool_choice(engine: Engine) -> None:
    assert not EmbeddedEngine.quirks.names_tool_choice
    tool = WEATHER["tools"][0]
    other = {"type": "function", "function": {**tool["function"], "name": "get_time"}}
    named = {"type": "function", "function": {"name": "get_time"}}
    answer = engine.post("/v1/chat/completions", {**WEATHER, "tools": [tool, other], "tool_choice": named})
    calls = answer["choices"][0]["message"].get("tool_calls") or []
    assert "get_time" not in [call["function"]["name"] for call in calls]


def test_quirk_early_usage(engine: Engine) -> None:
    early = EmbeddedEngine.quirks.early_usage
    assert early
    events = engine.events(
        "/v1/chat/completions", {**SUM, **early, "stream_options": {"include_usage": True}}
    )
    progress = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert progress[-1]["total"] == events[-1]["usage"]["prompt_tokens"]


def test_quirk_running_usage(engine: Engine) -> None:
    """Every chunk with text tells the exact count so far; the last one that of the usage."""
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True}
    asked |= {"stream_options": {"include_usage": True}, **EmbeddedEngine.quirks.running_usage}
    events = engine.events("/v1/chat/completions", asked)
    told = [event["timings"] for event in events if event.get("timings")]
    usage = next(event["usage"] for event in events if event.get("usage"))
    assert len(told) >= 3
    assert [one["predicted_n"] for one in told] == sorted(one["predicted_n"] for one in told)
    assert told[-1]["predicted_n"] == usage["completion_tokens"]
    assert {one["cache_n"] + one["prompt_n"] for one in told} == {usage["prompt_tokens"]}


def test_tool_calls_stream_in_the_published_shape(engine: Engine) -> None:
    deltas = [
        call
        for event in engine.events("/v1/chat/completions", WEATHER)
        for choice in event["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert deltas[0]["id"] and deltas[0]["type"] == "function"
    assert all(delta["index"] == 0 for delta in deltas)
    arguments = "".join(delta["function"].get("arguments", "") for delta in deltas)
    assert json.loads(arguments) == {"city": "Paris"}


# The process.


def test_every_connection_that_the_gateway_may_open_has_a_thread(tmp_path: Path) -> None:
    assert HTTP_THREADS > EMBEDDED_CONCURRENCY_MAX
    with reserve_port("127.0.0.1") as held, contextlib.ExitStack() as opened:
        made = Engine(tmp_path, held.getsockname()[1])
        process = made.start()
        opened.callback(process.wait)
        opened.callback(process.kill)
        until(made.well, "the engine answers")
        status = Path(f"/proc/{process.pid}/status").read_text()
        (threads,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:")]
        assert threads > HTTP_THREADS
        held_open = [
            opened.enter_context(socket.create_connection(("127.0.0.1", made.port), timeout=5))
            for _ in range(EMBEDDED_CONCURRENCY_MAX)
        ]
        for connection in held_open:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for connection in held_open:
            assert connection.recv(20).startswith(b"HTTP/1.1 200")
        assert made.well()


def test_stops_on_sigterm_with_a_stream_under_way(tmp_path: Path) -> None:
    with reserve_port("127.0.0.1") as held:
        made = Engine(tmp_path, held.getsockname()[1])
        process = made.start()
        try:
            until(made.well, "the engine answers")
            connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=20)
            endless = {**SUM, "stream": True, "ignore_eos": True, "max_tokens": 100_000}
            headers = {"Authorization": f"Bearer {SECRET}"}
            connection.request("POST", "/v1/chat/completions", json.dumps(endless), headers)
            assert connection.getresponse().readline().startswith(b"data: ")
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
            assert time.monotonic() - began < 3
            connection.close()
        finally:
            process.kill()
            process.wait()


def test_dies_with_its_parent(tmp_path: Path) -> None:
    with reserve_port("127.0.0.1") as held:
        made = Engine(tmp_path, held.getsockname()[1])
        program = (
            "import os, subprocess, sys, time\n"
            f"os.environ[{PARENT_VARIABLE!r}] = str(os.getpid())\n"
            "print(subprocess.Popen(sys.argv[1:]).pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, *made.launch.argv], stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            until(made.well, "the engine answers")
            parent.kill()
            until(lambda: not alive(pid), "the engine is gone", 5)


@pytest.mark.parametrize(
    ("harm", "code", "said"),
    [
        ("missing", os.EX_CONFIG, "does not exist; check spec.model"),
        ("garbage", os.EX_SOFTWARE, "llama.cpp could not load"),
        ("open key", os.EX_CONFIG, "chmod 600"),
        ("bad settings", os.EX_CONFIG, "sextant: "),
    ],
)
def test_says_why_it_cannot_start(tmp_path: Path, harm: str, code: int, said: str) -> None:
    model = tmp_path / "model.gguf"
    if harm != "missing":
        model.write_bytes(bundled_model_path("sextant-nano").read_bytes()[:4000])
    with reserve_port("127.0.0.1") as held:
        made = Engine(tmp_path, held.getsockname()[1], model_path=model)
        if harm == "open key":
            (tmp_path / "key").chmod(0o644)
        if harm == "bad settings":
            (tmp_path / "engine.json").write_text('{"model_file": 3}')
        assert made.start().wait(20) == code
    assert said in made.log.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "way"),
    [
        ("libgomp.so.1: cannot open shared object file", WAYS),
        ("No module named 'xllamacpp'", "pip install xllamacpp"),
    ],
)
def test_a_missing_library_is_told_with_the_way_to_get_it(tmp_path: Path, error: str, way: str) -> None:
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({error!r})\n")
    made = Engine(tmp_path, 1)
    assert made.start(PYTHONPATH=str(tmp_path)).wait(20) == os.EX_CONFIG
    assert made.log.read_text().splitlines()[-1].endswith(f"run: {way}")


def test_settings_hold_no_secret(tmp_path: Path) -> None:
    made = Engine(tmp_path, 1)
    assert SECRET.encode() not in msgspec.json.encode(made.launch)
