"""The embedded engine: llama.cpp's server from the prebuilt `xllamacpp` wheel, in a process of its own.

The adapter (pure) makes the settings of one replica; `embedded_server.py` is the process that reads them.
What llama.cpp answers differently from the published API stands in `QUIRKS`, found by experiment with the
pinned release (`tests/engines/test_embedded.py` asks a real server again for each of them).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

import msgspec

from sextant.base.errors import Misconfigured
from sextant.engines.cores import default_threads
from sextant.engines.modelfacts import ModelFacts
from sextant.engines.protocol import Launch, Replica
from sextant.spec.engine_data import engines
from sextant.spec.snapshot import Capabilities, Quirks

PROMPT_CACHE_MIB = 256
"""Host memory for prompts kept beyond the slots."""
BATCH_TOKENS = 2048
"""Prompt tokens evaluated in one step."""
HTTP_THREADS = 544
"""Threads of llama.cpp's HTTP pool: one for each connection that the gateway may open (512), and some for
probes and metrics. A thread keeps its connection while that is open, idle or not. The pool's own growth is no
help: it grows only when no thread is idle at the instant a connection comes, so of two that come together one
may wait until another closes, 5 s and more. 544 waiting threads take 5 MB."""

QUIRKS = Quirks(
    compliant=False,
    reasoning_field="reasoning_content",
    strip_fields=("timings", "__verbose"),
    drop_params=(),
    max_tokens_field="max_tokens",
    reasoning_off={"chat_template_kwargs": {"enable_thinking": False}},
    counts_reasoning=False,
    cached_tokens_path=("prompt_tokens_details", "cached_tokens"),
    logprobs_path="openai",
    count_tokens_path="/chat/completions/input_tokens",
    completions_logprobs="chat",
    usage_of_one_choice=True,
    repeats_prefix=True,
    ignored_params=("echo", "best_of"),
    own_names={
        "n_predict": "max_tokens",
        "n_cmpl": "n",
        "n_probs": "top_logprobs",
        "post_sampling_probs": "logprobs",
    },
    names_tool_choice=False,
    early_usage={"return_progress": True},
    running_usage={"timings_per_token": True},
    hides_tools_when_none=False,
)

CAPABILITIES = Capabilities(
    chat=True,
    completions=True,
    fim=False,
    embeddings=False,
    tools=True,
    json_schema=True,
    reasoning=True,
    logprobs=True,
    vision=False,
)


class EmbeddedOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`spec.engine`'s options for this engine."""

    slots: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    """Requests decoded together; each has the model's whole context."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    """Unset: the usable physical cores minus one, at least one."""
    ready_timeout_s: float = 120.0
    stop_timeout_s: float = 10.0


class EmbeddedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one engine process is told, as a JSON file (mode 0600; the API key is by reference)."""

    model_file: str
    alias: str
    host: str
    port: int
    key_file: str
    context_tokens: int
    slots: int
    threads: int
    threads_counted: bool = False
    """Whether they were counted from the cores, and not asked for: then the engine follows its cores."""
    prompt_cache_mib: int = PROMPT_CACHE_MIB
    batch_tokens: int = BATCH_TOKENS


class EmbeddedEngine:
    """The adapter."""

    name = "embedded"
    quirks = QUIRKS
    capabilities = CAPABILITIES

    @property
    def metric_names(self) -> Mapping[str, str]:
        return engines()["embedded"].metrics

    def launch(self, replica: Replica) -> Launch:
        options = _options(replica.options)
        settings = EmbeddedSettings(
            model_file=replica.model_path,
            alias=replica.model_id,
            host=replica.host,
            port=replica.port,
            key_file=replica.key_file,
            context_tokens=replica.context_tokens,
            slots=options.slots,
            threads=default_threads() if options.threads is None else options.threads,
            threads_counted=options.threads is None,
        )
        return Launch(
            argv=(
                sys.executable,
                "-m",
                "sextant.engines.embedded_server",
                "--settings",
                replica.settings_file,
            ),
            env={},
            base_url=f"http://{replica.host}:{replica.port}/v1",
            health_path="/health",
            metrics_path="/metrics",
            ready_timeout_s=options.ready_timeout_s,
            stop_timeout_s=options.stop_timeout_s,
            files={replica.settings_file: msgspec.json.encode(settings)},
            api_key_ref=f"file:{replica.key_file}",
            upstream_model=replica.model_id,
        )


def capabilities_of(model: ModelFacts) -> Capabilities:
    """What this engine can do with this model: fill-in-the-middle needs the model's own tokens for it."""
    return msgspec.structs.replace(CAPABILITIES, fim=model.fim_tokens is not None)


def quirks_of(model: ModelFacts) -> Quirks:
    """This engine's quirks with this model: how a fill-in-the-middle prompt is written for it."""
    if model.fim_tokens is None:
        return QUIRKS
    prefix, suffix, middle = model.fim_tokens
    return msgspec.structs.replace(QUIRKS, fim_prompt=f"{prefix}{{prefix}}{suffix}{{suffix}}{middle}")


def _options(given: Mapping[str, object]) -> EmbeddedOptions:
    try:
        return msgspec.convert(dict(given), EmbeddedOptions)
    except msgspec.ValidationError as error:
        known = ", ".join(EmbeddedOptions.__struct_fields__)
        raise Misconfigured(
            f"engine embedded: {error}; its options are {known}", field="spec.engine"
        ) from None
