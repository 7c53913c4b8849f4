"""A chat API that answers as a test needs it; a fake because a real one cannot be cut off at a chosen
byte."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def delta(finish: str | None = None, **fields: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


class FakeChatApi:
    """`script` is what the next answer streams: events, or `b"raw"`, or a threading.Event to wait for, or a
    function that makes an event of the request's body."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.script: list[Any] = []
        self.status = 200
        self.requests: list[dict[str, Any]] = []
        self.left = threading.Event()


@contextmanager
def fake_chat_api() -> Iterator[FakeChatApi]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            self.whole(200, {"data": [{"id": "m"}, {"id": "other"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            api.requests.append(body)
            if api.status != 200:
                self.whole(api.status, {"error": {"message": "no such thing", "code": "x"}})
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            try:
                for step in api.script:
                    if isinstance(step, threading.Event):
                        while not step.wait(0.02):
                            self.wfile.write(b": waiting\n\n")
                    elif isinstance(step, bytes):
                        self.wfile.write(step)
                    else:
                        event = step(body) if callable(step) else step
                        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                    self.wfile.flush()
            except OSError:
                api.left.set()

        def whole(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api = FakeChatApi(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
