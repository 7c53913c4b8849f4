"""A deployment whose engine's key is sealed: asked over its gateway, and looked through for the key."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from security.softhsm_kit import PIN, SoftHsm, soft_hsm
from stack import free_ports

SECRET = "sk-nobody-reads-this"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Endpoint(http.server.BaseHTTPRequestHandler):
    """An engine elsewhere that knows one key."""

    seen: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.headers.get("Authorization", ""))
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        piece = {"index": 0, "delta": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        made = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        events = [{**made, "choices": [piece]}, {**made, "choices": [], "usage": usage}]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "11")
        self.end_headers()
        self.wfile.write(b'{"data":[]}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Endpoint,), {"seen": seen}))
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}/v1", seen
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_the_engine_gets_its_key_and_no_file_does(tmp_path: Path, endpoint: tuple[str, list[str]]) -> None:
    url, seen = endpoint
    hsm, sealed, state = soft_hsm(tmp_path / "hsm", "main"), tmp_path / "engine.sealed", tmp_path / "state"
    remote = {"kind": "remote", "base_url": url, "api_key": f"sealed:{sealed}"}
    document = hsm.document(sealing_key="sealing", engine=remote)
    assert hsm.sextant("hsm", "init", document).returncode == 0
    assert hsm.sextant("hsm", "seal", document, "-o", sealed, given=SECRET).returncode == 0
    gateway, control = map(str, free_ports(2))
    ports = ("--port", gateway, "--control-port", control)
    started = hsm.sextant("up", document, "--state", state, *ports, "--detach")
    try:
        assert started.returncode == 0, started.stderr
        hsm.pin_file.unlink()  # it was needed at the start alone
        asked = hsm.sextant("chat", "--state", state, "are you there?")
        assert asked.returncode == 0 and "yes" in asked.stdout, asked.stderr
        assert seen == [f"Bearer {SECRET}"]
        _holds_neither(hsm, state, started.stdout + started.stderr)
    finally:
        hsm.sextant("down", "--state", state)
    _holds_neither(hsm, state, "")


def _holds_neither(hsm: SoftHsm, state: Path, said: str) -> None:
    """The secret and the PIN stand in no file of the state and in nothing that was printed."""
    files = [path for path in state.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        held = path.read_bytes()
        assert SECRET.encode() not in held and PIN.encode() not in held, path
    assert SECRET not in said and PIN not in said
