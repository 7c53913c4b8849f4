"""The engine part of the deployment document: one section per way of running a model. For `document.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sextant.spec.fields import (
    Argument,
    EnvironmentName,
    HttpUrl,
    ModelName,
    Positive,
    Program,
    Seconds,
    SecretReference,
    Section,
    items,
)
from sextant.spec.snapshot import Capabilities
from sextant.spec.spiffe_id import SpiffeId


class EmbeddedEngine(Section):
    """llama.cpp in a process of its own on this machine: the bundled model, or a GGUF file of yours."""

    kind: Literal["embedded"] = Field(description="Which engine.")
    slots: Annotated[int, Field(ge=1, le=64)] = Field(4, description="Requests decoded at the same time.")
    context_tokens: Annotated[int, Field(ge=256, le=1_048_576)] | None = Field(
        None,
        description="Longest prompt and answer together, per request; unset: what the model was trained for.",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Decoding threads; unset: the free physical cores minus one, at least one."
    )
    ready_timeout_s: Seconds = Field(120.0, description="Longest start before the engine counts as failed.")
    stop_timeout_s: Seconds = Field(10.0, description="Longest orderly stop before the engine is killed.")


class RemoteCapabilities(Section):
    """What the remote endpoint can do; a request for anything else is refused before it is sent."""

    chat: bool = Field(True, description="Chat completions.")
    completions: bool = Field(True, description="Text completions.")
    fim: bool = Field(False, description="Completions with a suffix (fill in the middle).")
    embeddings: bool = Field(False, description="Embeddings.")
    tools: bool = Field(True, description="Tool calls.")
    json_schema: bool = Field(True, description="Answers held to a JSON Schema.")
    reasoning: bool = Field(True, description="Reasoning apart from the answer.")
    logprobs: bool = Field(True, description="Log probabilities.")
    vision: bool = Field(False, description="Images in messages.")
    audio: bool = Field(False, description="Sound in messages.")
    rerank: bool = Field(False, description="Ranking documents by a query.")

    def struct(self) -> Capabilities:
        return Capabilities(**self.model_dump())


class RemoteEngine(Section):
    """An OpenAI-compatible endpoint that runs elsewhere."""

    kind: Literal["remote"] = Field(description="Which engine.")
    base_url: HttpUrl = Field(description="The API root; `/chat/completions` is appended to it.")
    api_key: SecretReference | None = Field(
        None, description="Reference to the endpoint's key: `env:NAME` or `file:/path`; unset: none is sent."
    )
    upstream_model: ModelName | None = Field(
        None, description="The endpoint's own name for the model; unset: `spec.model.name`."
    )
    peer_id: SpiffeId | None = Field(
        None,
        description="SPIFFE id that the endpoint's certificate must have, instead of a host name; it is "
        "shown ours (`spec.security.spiffe`). Unset: TLS as on the web.",
    )
    speaks: Literal["vllm", "sglang", "llamacpp", "triton", "trtllm", "nim", "mindie"] | None = Field(
        None,
        description="The engine that answers there, where it is one of these: what it does differently from "
        "the published API is put right. Unset: not known.",
    )
    compliant: bool = Field(
        False,
        description="True relays answers untouched: the endpoint already writes every required field, as "
        "DeepSeek and OpenAI do. False fills in what is missing.",
    )
    context_tokens: Annotated[int, Field(ge=256, le=10_485_760)] = Field(
        65_536, description="Longest prompt and answer together that the endpoint takes."
    )
    capabilities: RemoteCapabilities = Field(RemoteCapabilities(), description="What the endpoint can do.")
    media_urls: Literal["refuse", "pass"] = Field(
        "refuse",
        description="What becomes of an image's https URL whose host is not in `gateway.limits.media_hosts`; "
        "`pass` hands it to the endpoint, which fetches for itself.",
    )


class LaunchedEngine(Section):
    """An engine installed on this machine, started and watched as a program of its own."""

    kind: Literal["vllm", "sglang", "llamacpp", "triton", "trtllm", "nim", "mindie"] = Field(
        description="Which engine."
    )
    command: Annotated[tuple[Program, ...], items(most=64)] = Field(
        (),
        description="The program and its first arguments; unset: the engine's usual one, found on PATH.",
        examples=[["venv-vllm/bin/vllm", "serve"]],
    )
    args: Annotated[tuple[Argument, ...], items(most=256)] = Field(
        (), description="Further arguments, after ours."
    )
    env: dict[EnvironmentName, Argument] = Field(
        {}, description="Environment variables of the engine; no secrets here."
    )
    backend: Literal["vllm", "tensorrtllm"] | None = Field(
        None, description="What `triton` serves the model by; unset: `vllm`. Other engines have none."
    )
    context_tokens: Annotated[int, Field(ge=256, le=10_485_760)] | None = Field(
        None,
        description="Longest prompt and answer together, per request; unset: what the model was trained for.",
    )
    tensor_parallel: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="Accelerators that share each layer."
    )
    memory_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Share of each accelerator's memory to use; unset: the engine's own default."
    )
    max_sequences: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        None, description="Requests decoded at the same time; unset: the engine's own default."
    )
    precision: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="Type or quantisation of the weights, in the engine's own word.", examples=["fp8"]
    )
    capabilities: RemoteCapabilities | None = Field(
        None, description="What the model can do on this engine; unset: what the engine's table says."
    )
    ready_timeout_s: Seconds | None = Field(
        None,
        description="Longest start before the engine counts as failed; unset: 15 minutes and 18 s for each "
        "GiB of weights.",
    )
    memory_limit_gib: Positive | None = Field(
        None,
        description="Resident host memory of the engine and all that it starts; with more it is drained and "
        "started again. Unset: no bound.",
    )
    stop_timeout_s: Seconds = Field(30.0, description="Longest orderly stop before the engine is killed.")


Engine = Annotated[EmbeddedEngine | RemoteEngine | LaunchedEngine, Field(discriminator="kind")]
