"""The SGLang adapter: `python3 -m sglang.launch_server`, its key added inside the process (`keyed.py`).

`command` is the Python interpreter of SGLang's environment.
"""

from __future__ import annotations

from sextant.catalog.keyed import run_module
from sextant.engines.protocol import Replica, ServerOptions
from sextant.engines.server_engine import Call, ServerEngine, given


class SglangEngine(ServerEngine):
    """The adapter."""

    name = "sglang"
    own_flags = frozenset(
        (
            "--host",
            "--port",
            "--api-key",
            "--model-path",
            "--model",
            "--served-model-name",
            "--context-length",
        )
    )

    def _call(self, replica: Replica, options: ServerOptions, name: str) -> Call:
        return Call(
            args=(
                *run_module("sglang.launch_server", "--api-key", "{key}"),
                *("--model-path", self._model(replica)),
                *("--served-model-name", name),
                *("--host", replica.host),
                *("--port", str(replica.port)),
                *given("--context-length", replica.context_tokens),
                *("--tp-size", str(options.tensor_parallel)),
                *given("--mem-fraction-static", options.memory_share),
                *given("--max-running-requests", options.max_sequences),
                *self._typed(options.precision, "--dtype", "--quantization"),
                "--enable-metrics",
                "--enable-cache-report",
                *self._ruled_args(replica),
            )
        )
