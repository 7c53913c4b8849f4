"""A server in the place of an engine: started as our adapter starts that engine, it reads its arguments,
variables and files as the engine would, and answers with the engine's recorded answers.

`python recorded_engine.py KIND …` for engines that are programs; `place(folder)` writes what stands for those
that are Python modules or files.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parents[1] / "engines" / "recorded"
HEALTH = {"sglang": "/ready", "triton": "/health/ready", "nim": "/v1/health/ready"}
METRICS = {"nim": "/v1/metrics", "trtllm": "/prometheus/metrics"}
ORIGIN = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import recorded_engine as r\n"


def place(folder: Path) -> None:
    """Writes what stands for `sglang.launch_server` and for Triton's front end."""
    (folder / "sglang").mkdir()
    (folder / "sglang" / "launch_server.py").write_text(f"{ORIGIN}r.main(['sglang', *sys.argv[1:]])\n")
    (folder / "main.py").write_text(f"{ORIGIN}r.main(['triton', *sys.argv[1:]])\n")


def main(argv: list[str]) -> None:
    """Serves until it is killed."""
    kind, *rest = argv
    given = _read(kind, rest)
    handler = type("Handler", (Handler,), {"kind": kind, "model": given["model"], "key": given["key"]})
    server = Server((given["host"], int(given["port"])), handler, bind_and_activate=False)
    if kind == "llamacpp":
        server.allow_reuse_address = False
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.server_bind()
    server.server_activate()
    server.serve_forever()


def _read(kind: str, rest: list[str]) -> dict[str, Any]:
    """Host, port, model and key, from where this engine takes them."""
    if kind == "mindie":
        config = json.loads(Path(os.environ["MIES_CONFIG_JSON_PATH"]).read_text())
        server = config["ServerConfig"]
        (model,) = config["BackendConfig"]["ModelDeployConfig"]["ModelConfig"]
        assert Path(model["modelWeightPath"], "config.json").exists()
        return {"host": server["ipAddress"], "port": server["port"], "model": model["modelName"], "key": None}
    if kind == "nim":
        names = {"port": "NIM_SERVER_PORT", "model": "NIM_SERVED_MODEL_NAME", "key": "VLLM_API_KEY"}
        assert Path(os.environ["NIM_MODEL_PATH"], "config.json").exists()
        return {"host": "127.0.0.1", **{what: os.environ[name] for what, name in names.items()}}
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--host", "--port", "--openai-port", "--api-key", "--model-repository", "--tokenizer"):
        parser.add_argument(flag)
    for flag in ("--served-model-name", "--alias"):
        parser.add_argument(flag, dest="model")
    parser.add_argument("--openai-restricted-api", nargs=3)
    parser.add_argument("--extra_llm_api_options")
    found, _ = parser.parse_known_args(rest)
    if kind == "triton":
        (made,) = Path(found.model_repository).iterdir()
        assert 'backend: "vllm"' in (made / "config.pbtxt").read_text()
        assert json.loads((made / "1" / "model.json").read_text())["model"] == found.tokenizer
        _, header, value = found.openai_restricted_api
        key = value.removeprefix("Bearer ") if header == "authorization" else None
        return {"host": found.host, "port": found.openai_port, "model": made.name, "key": key}
    if kind == "trtllm":  # a key it knows not, a name of the model neither
        settings = json.loads(Path(found.extra_llm_api_options).read_text())
        assert settings["return_perf_metrics"] is True
        assert Path(rest[0], "config.json").exists()
        return {"host": found.host, "port": found.port, "model": "", "key": None}
    variable = {"vllm": "VLLM_API_KEY", "llamacpp": "LLAMA_API_KEY"}.get(kind)
    key = found.api_key if variable is None else os.environ[variable]
    return {"host": found.host, "port": found.port, "model": found.model, "key": key}


class Server(ThreadingHTTPServer):
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    kind = ""
    model = ""
    key: str | None = None

    def do_GET(self) -> None:
        pages = {
            HEALTH.get(self.kind, "/health"): "health",
            METRICS.get(self.kind, "/metrics"): "metrics",
            "/v1/models": "models",
        }
        page = pages.get(self.path)
        guarded = page == "models" or (page == "metrics" and self.kind in ("llamacpp", "nim"))
        self._answer(page if not guarded or self._known() else "error_401")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions" or body["model"] != (self.model or body["model"]):
            self._answer(None)
        elif not self._known():
            self._answer("error_401")
        else:
            self._answer("chat_stream" if body.get("stream") else "chat")

    def _known(self) -> bool:
        return self.key is None or self.headers["authorization"] == f"Bearer {self.key}"

    def _answer(self, name: str | None) -> None:
        file = RECORDED / self.kind / f"{name}.http"
        if not file.exists():
            self.send_error(404 if name is None else 401)
            return
        head, _, body = file.read_bytes().partition(b"\n\n")
        status, kind = (line.split(b": ", 1)[1].decode() for line in (head + b" ").split(b"\n# ")[1:])
        self.send_response(int(status))
        self.send_header("content-type", kind.strip() or "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


if __name__ == "__main__":
    main(sys.argv[1:])
