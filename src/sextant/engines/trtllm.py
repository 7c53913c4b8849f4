"""The TensorRT-LLM adapter: `trtllm-serve FOLDER`, NVIDIA's own OpenAI-compatible server.

It takes no API key, so it answers whoever reaches the port: it listens on loopback. It answers to any name
of the model and calls it as it was asked.
"""

from __future__ import annotations

from sextant.catalog.trtllm import LIMITS, SETTINGS_FLAG, Told, as_file, settings
from sextant.engines.protocol import Replica, ServerOptions
from sextant.engines.server_engine import Call, ServerEngine, given


class TrtllmEngine(ServerEngine):
    """The adapter."""

    name = "trtllm"
    own_flags = frozenset(
        (
            "--host",
            "--port",
            "--max_seq_len",
            "--max-seq-len",
            "--served_model_name",
            "--served-model-name",
            *(SETTINGS_FLAG, SETTINGS_FLAG.replace("_", "-"), "--config"),
        )
    )

    def _call(self, replica: Replica, options: ServerOptions, name: str) -> Call:
        precision = options.precision
        is_dtype = precision is not None and self.data.is_dtype(precision)
        told = Told(dtype=precision if is_dtype else None)
        return Call(
            args=(
                self._model(replica),
                *("--host", replica.host),
                *("--port", str(replica.port)),
                *given("--max_seq_len", replica.context_tokens),
                *("--tp_size", str(options.tensor_parallel)),
                *given("--max_batch_size", options.max_sequences),
                *LIMITS,
                *(SETTINGS_FLAG, replica.settings_file),
                *self._ruled_args(replica),
            ),
            files={replica.settings_file: as_file(settings(told))},
        )
