"""Personal data through the whole of `sextant up`: the tenant's policy is set through the admin API, and an
endpoint that runs elsewhere gets tokens where the caller gave and gets values."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stack_under_test import Stack, until
from stack_under_test import stack as own_stack

pytestmark = pytest.mark.slow

DOCUMENT = (
    "apiVersion: sextant.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: t}\nspec:\n"
    "  model: {name: far}\n  engine: {kind: remote, base_url: 'http://127.0.0.1:%d/v1', compliant: true}\n"
)
PROMPT = "身份证 11010519491231002X，手机 138-0013-8000"
MASKED = "身份证 <CN_ID_1>，手机 <PHONE_1>"


class Endpoint(BaseHTTPRequestHandler):
    """Repeats what it was sent, a character a chunk, and remembers it."""

    protocol_version = "HTTP/1.1"
    got: list[str]

    def do_GET(self) -> None:
        self._answer(b'{"object":"list","data":[{"id":"far","object":"model"}]}', "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        self.got.append(json.dumps(body, ensure_ascii=False))
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        head = {"id": "c", "created": 1, "model": "far"}
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self._answer(json.dumps(whole).encode(), "application/json")
            return
        choices: list[dict[str, Any]] = [
            {"index": 0, "delta": {"content": character}, "finish_reason": None} for character in text
        ]
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        chunks = [{**head, "object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
        chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self._answer(events.encode(), "text/event-stream")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def endpoint() -> Iterator[tuple[int, list[str]]]:
    got: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Endpoint,), {"got": got}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(made: Stack, **more: Any) -> Any:
    body = {"model": "far", "messages": [{"role": "user", "content": PROMPT}], **more}
    return made.ask("POST", "/v1/chat/completions", body)


def streamed(text: str) -> str:
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_a_policy_set_in_the_admin_api_is_carried_out(tmp_path: Path) -> None:
    document = tmp_path / "deployment.yaml"
    with endpoint() as (port, got):
        document.write_text(DOCUMENT % port)
        with own_stack(document=document) as made:
            assert ask(made).json()["choices"][0]["message"]["content"] == PROMPT
            assert PROMPT in got[-1]  # no policy yet

            def policy(**privacy: Any) -> None:
                change = {"privacy": privacy}
                answer = made.ask("PATCH", "/v1/tenants/default", change, port=made.control_port)
                assert answer.status == 200, answer.body

            policy(otherwise="mask")
            until(lambda: ask(made).headers.get("x-sextant-personal-data") == "masked", "the policy is taken")
            assert MASKED in got[-1] and "138-0013" not in got[-1]
            assert ask(made).json()["choices"][0]["message"]["content"] == PROMPT
            assert streamed(ask(made, stream=True).body.decode()) == PROMPT
            policy(otherwise="block")
            until(lambda: ask(made).status == 400, "the next policy is taken")
            before = len(got)
            refused = ask(made)
            assert refused.json()["error"]["code"] == "personal_data_blocked"
            assert "138" not in refused.body.decode()
            assert len(got) == before
            assert made.stop() == 0
            assert "138-0013-8000" not in made.said()
