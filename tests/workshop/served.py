"""A bare llama.cpp server over one GGUF, spoken to in-process or over its loopback port."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from sextant.workshop.nano.__main__ import shipped

HF = shipped() / "hf"
GGUF = shipped() / "sextant-nano.gguf"


class Served:
    """The server lives as long as this object."""

    def __init__(self, path: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.port = 0
        params.hostnames = ["127.0.0.1"]
        params.n_ctx = 4096
        params.verbosity = 0
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        self._server = xllamacpp.Server(params)
        self.base_url = self._server.listening_address

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.base_url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def ids(self, text: str) -> list[int]:
        tokens: list[int] = self.post(
            "/tokenize", {"content": text, "add_special": False, "parse_special": True}
        )["tokens"]
        return tokens

    def greedy(self, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
        """The greedy continuation of a prompt: token ids and the log-probability of each."""
        answer = self.post(
            "/completion",
            {
                "prompt": prompt,
                "n_predict": count,
                "temperature": 0,
                "n_probs": 1,
                "cache_prompt": False,
                "post_sampling_probs": False,
            },
        )
        steps = answer["completion_probabilities"]
        return [s["id"] for s in steps], [s["logprob"] for s in steps]
