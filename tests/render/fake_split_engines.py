"""Stand-ins for what a router before prefill and decode needs: the API server, and engines of both kinds.

`python fake_split_engines.py API_PORT ENGINE_PORT PODS.json`: serves the pods of that file to whoever lists
or watches them, and an engine at each pod's address (all below 127.0.0.0/8). Each request that an engine gets
is written to stdout as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "the-engines-key"
UNGUARDED = ("/health", "/ready", "/metrics")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pods: tuple[dict[str, Any], ...] = ()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class FakeApi(Handler):
    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/api/v1/namespaces/sextant/pods":
            return self.answer({"kind": "Status", "status": "Failure", "code": 404}, 404)
        if "watch=" in self.path:  # nothing ever changes: the watch ends and is begun anew
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "0")
            self.end_headers()
            threading.Event().wait(1)
            return None
        metadata = {"resourceVersion": "10"}
        return self.answer({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": self.pods})


class FakeEngine(Handler):
    def do_GET(self) -> None:
        if self.path not in UNGUARDED and not self.is_let_in():
            return self.answer({"error": "no key"}, 401)
        return self.answer({"served_model_name": "r1-7b", "dp_size": 1, "tp_size": 1})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.is_let_in():
            return self.answer({"error": "no key"}, 401)
        address = self.server.server_address[0]
        # In one call: print writes the line's end apart, and another thread's line comes between.
        line = json.dumps({"at": address, "path": self.path, "body": body}) + "\n"
        os.write(sys.stdout.fileno(), line.encode())
        message = {"role": "assistant", "content": f"answered at {address}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "r1-7b", "usage": usage}
        told = {"remote_engine_id": "one", "remote_block_ids": [7], "remote_host": address}
        more = {"kv_transfer_params": told} if "kv_transfer_params" in body else {}
        return self.answer({**answer, "choices": [choice], **more})

    def is_let_in(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {KEY}"


def main(api_port: int, engine_port: int, pods: Path) -> None:
    Handler.pods = tuple(json.loads(pods.read_text()))
    for pod in Handler.pods:
        server = ThreadingHTTPServer((pod["status"]["podIP"], engine_port), FakeEngine)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", api_port), FakeApi).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
