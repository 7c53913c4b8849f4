"""The adapter for Triton's OpenAI front end, with its vLLM backend or with TensorRT-LLM (`backend`).

Triton serves a model repository; the one for a Hugging Face folder is a few small files, written before the
start. `command` is the Python interpreter and the front end's file in Triton's image. Another repository is
named by `--model-repository` in `args`; ours is not written then.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

import msgspec

from sextant.base.errors import Misconfigured
from sextant.catalog.keyed import run_file
from sextant.catalog.triton import CONFIG, RESTRICTED, TENSORRTLLM, VLLM, capabilities_behind
from sextant.catalog.triton_trtllm import llm_arguments, repository_files
from sextant.catalog.trtllm import Told
from sextant.engines.protocol import Launch, Replica, ServerOptions
from sextant.engines.server_engine import Call, ServerEngine, given
from sextant.spec.snapshot import Capabilities


class TritonEngine(ServerEngine):
    """The adapter."""

    name = "triton"
    own_flags = frozenset(("--host", "--openai-port", "--openai-restricted-api"))

    def launch(self, replica: Replica) -> Launch:
        """As every launch; the front end's file is run by the interpreter before it, with the key added."""
        command = self._options(replica).command or self.data.command
        if len(command) < 2 or not command[-1].endswith(".py"):
            raise Misconfigured(
                f"engine triton: command is {' '.join(command)!r}, expected a Python interpreter and the "
                f"front end's file, for example {' '.join(self.data.command)}",
                field="spec.engine.command",
            )
        options = {**replica.options, "command": list(command)}
        launch = super().launch(msgspec.structs.replace(replica, options=options))
        place = launch.argv.index(command[-1])
        run = run_file(command[-1], "--openai-restricted-api", RESTRICTED, "authorization", "Bearer {key}")
        return msgspec.structs.replace(launch, argv=(*launch.argv[:place], *run, *launch.argv[place + 1 :]))

    def upstream_model(self, replica: Replica) -> str:
        """A folder of the repository is the model's name, so it holds no slash."""
        return replica.upstream_model or re.sub(r"[^\w.-]", "-", replica.model_id)

    def capabilities_of(self, replica: Replica) -> Capabilities:
        """As of every engine, but for what hangs on the backend."""
        return capabilities_behind(self._options(replica).backend, super().capabilities_of(replica))

    def _call(self, replica: Replica, options: ServerOptions, name: str) -> Call:
        fixed = (
            *("--backend", options.backend or VLLM),
            *("--host", replica.host),
            *("--openai-port", str(replica.port)),
            *given("--default-max-tokens", replica.context_tokens // 2),
        )
        if any(argument.partition("=")[0] == "--model-repository" for argument in options.args):
            return Call(args=fixed)
        model = self._model(replica)
        repository = PurePath(replica.settings_file).with_suffix(".repository")
        return Call(
            args=(*fixed, *("--model-repository", str(repository)), *("--tokenizer", model)),
            files={
                str(repository / path): content
                for path, content in self._repository(replica, options, name).items()
            },
        )

    def _repository(self, replica: Replica, options: ServerOptions, name: str) -> dict[str, bytes]:
        if options.backend != TENSORRTLLM:
            return {f"{name}/config.pbtxt": CONFIG, f"{name}/1/model.json": self._settings(replica, options)}
        if options.memory_share is not None:
            raise Misconfigured(
                f"engine triton: memory_share is {options.memory_share}, which TensorRT-LLM cannot follow: "
                f"it takes a share of what the weights leave; remove it",
                field="spec.engine.memory_share",
            )
        precision = options.precision
        is_dtype = precision is not None and self.data.is_dtype(precision)
        known = llm_arguments(
            Told(dtype=precision if is_dtype else None, measured=False),
            model_path=replica.model_path,
            context_tokens=replica.context_tokens,
            max_sequences=options.max_sequences,
        )
        return repository_files(name, {**known, "tensor_parallel_size": options.tensor_parallel})

    def _settings(self, replica: Replica, options: ServerOptions) -> bytes:
        """The vLLM backend's arguments, in its own names."""
        model: dict[str, Any] = {
            "model": replica.model_path,
            "max_model_len": replica.context_tokens,
            "tensor_parallel_size": options.tensor_parallel,
            "gpu_memory_utilization": options.memory_share,
            "max_num_seqs": options.max_sequences,
        }
        if options.precision is not None:
            is_dtype = self.data.is_dtype(options.precision)
            model["dtype" if is_dtype else "quantization"] = options.precision
        return msgspec.json.encode({key: value for key, value in model.items() if value})
