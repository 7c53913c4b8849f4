"""The two snapshots that the gateway reads, and nothing else: `RouteTable` and `PolicySnapshot`.

Control and the supervisor write them as JSON files (temporary file, then rename; mode 0600); the gateway
polls for a new version and swaps the whole object. Flow 1 (serve) reads them; flow 3 (release) writes them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sextant.spec.policy import KeyPolicy, PricePlan, ProjectPolicy, TenantPolicy, TierPolicy
from sextant.spec.stores import SharedLimits


class Quirks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an engine does differently from the published API, as data (one value per engine adapter).

    The gateway rewrites an answer only where a quirk says that the engine needs it.
    """

    compliant: bool = False
    """Answers already carry every required field; relay them untouched (a DeepSeek or OpenAI endpoint)."""
    reasoning_field: str = "reasoning_content"
    """The field in which the engine puts the reasoning text (`reasoning` on some)."""
    strip_fields: tuple[str, ...] = ()
    """Non-standard answer fields to remove (`timings`, `__verbose`, …); a dot leads inside, through every
    item of a list (`choices.stop_reason`)."""
    drop_params: tuple[str, ...] = ()
    """Request parameters that the engine refuses although they change nothing for it."""
    max_tokens_field: str = "max_tokens"
    reasoning_off: dict[str, object] = {}
    """Fields merged into the request when the caller turns thinking off."""
    reasoning_on: dict[str, object] = {}
    """Fields merged into the request when the caller asks for thinking (engines that do not think
    unasked)."""
    counts_reasoning: bool = False
    """Whether the engine itself reports `completion_tokens_details.reasoning_tokens`."""
    cached_tokens_path: tuple[str, ...] = ("prompt_tokens_details", "cached_tokens")
    """Where in `usage` the engine reports tokens served from the prefix cache."""
    logprobs_path: Literal["openai", "none"] = "openai"
    count_tokens_path: str = ""
    """Path under the API root that counts a chat request's input tokens (llama.cpp's is
    `/chat/completions/input_tokens`, answering `{"input_tokens": n}`); empty where the engine has none."""
    fim_prompt: str = ""
    """How a fill-in-the-middle prompt is written, with `{prefix}` and `{suffix}` in their places, for an
    engine whose completions endpoint ignores `suffix`; empty where the engine takes `suffix` itself."""
    completions_logprobs: Literal["legacy", "chat"] = "legacy"
    """Shape of `logprobs` in text completions: as published (`tokens`, `token_logprobs`, …), or as in
    chat."""
    usage_of_one_choice: bool = False
    """With several choices, `usage.completion_tokens` counts one of them alone."""
    repeats_prefix: bool = False
    """A whole answer to a conversation that ends in an assistant message begins with that message again."""
    ignored_params: tuple[str, ...] = ()
    """Request parameters that the engine ignores without saying so; the gateway refuses them."""
    own_names: dict[str, str] = {}
    """The engine's own names for published parameters (`{"n_predict": "max_tokens"}`); refused, since they
    would go round the checks of the published ones."""
    names_tool_choice: bool = True
    """Honours a `tool_choice` that names a function; false: it would be read as `auto`, so that tool alone is
    sent, with `required`."""
    early_usage: dict[str, object] = {}
    """Fields that make a stream tell its prompt tokens before the first output, as llama.cpp's
    `prompt_progress` (`{"return_progress": true}`); sent where the dialect has a use for it."""
    running_usage: dict[str, object] = {}
    """Fields that make the engine count in every chunk of a stream, so that one that is cut is counted
    exactly: in `usage`, or as llama.cpp in `timings`. Sent where there is one answer, since each choice is
    counted by itself."""
    hides_tools_when_none: bool = True
    """With `tool_choice: none` the model is not shown the tools; false: it may write a raw call as text, so
    the tools must be left out of the request."""


class Capabilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    chat: bool = True
    completions: bool = True
    fim: bool = False
    embeddings: bool = False
    tools: bool = True
    json_schema: bool = True
    reasoning: bool = True
    logprobs: bool = True
    vision: bool = False
    """Reads images in messages."""
    audio: bool = False
    """Reads sound in messages."""
    rerank: bool = False


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One running replica. `base_url` ends in the API root (`http://127.0.0.1:40001/v1`); `api_key_ref` is a
    secret reference (`env:NAME`, `file:/path`), never the secret. `ready` is the supervisor's health
    verdict."""

    id: str
    base_url: str
    api_key_ref: str | None = None
    upstream_model: str | None = None
    weight: int = 100
    ready: bool = True
    reason: str = ""
    peer_id: str | None = None
    """SPIFFE id that its certificate must have; we then show ours. None: TLS as on the web, or none."""


class Fallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another model that answers when this one cannot, before an answer has begun."""

    model: str
    """Id of the model that stands in; a caller must be allowed to use it."""
    when_full: bool = False
    """Also when all places and the queue are taken; else only while no engine is ready."""
    masks: bool = True
    """Whether personal data is masked on the way, also what a tenant's privacy policy lets through."""
    stays: tuple[str, ...] = ()
    """Tenants whose requests are never sent there."""


class ServedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model as callers see it. `aliases` are other names accepted for it (`deepseek-chat`); one that ends
    in `*` stands for every name that begins so."""

    id: str
    engine: str
    upstreams: tuple[Upstream, ...]
    aliases: tuple[str, ...] = ()
    owned_by: str = "sextant"
    created_s: int = 0
    context_tokens: int = 4096
    capabilities: Capabilities = Capabilities()
    quirks: Quirks = Quirks()
    concurrent_requests: int = 0
    """Requests that its engines work on at a time; more wait in its own queue. 0: an even share of
    `GatewayLimits.concurrent_requests` among the models served."""
    queue_length: int = 0
    """Requests waiting for one of its places; more are 503. 0: an even share of
    `GatewayLimits.queue_length`."""
    pool: str = ""
    """Name of the engine pool; tenants of a tier with this pool get it, all others the one without a name.
    Several entries of a table may share an id when their pools differ."""
    tenants: tuple[str, ...] = ()
    """Tenants that may use and see it; none named: all."""
    clears_personal_data: bool = True
    """Whether personal data may go to it: it runs inside the trust zone. False: the tenant's privacy policy
    is applied on the way."""
    fallback: Fallback | None = None
    """Who answers when no engine of it can; None: nobody."""
    media_urls: Literal["refuse", "pass"] = "refuse"
    """What becomes of an https URL of an image whose host is not in `GatewayLimits.media_hosts`: `pass` hands
    it to the engine as it is (a remote endpoint that fetches for itself)."""


class RouteTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    models: tuple[ServedModel, ...] = ()


class PolicySnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    tenants: tuple[TenantPolicy, ...] = ()
    keys: tuple[KeyPolicy, ...] = ()
    projects: tuple[ProjectPolicy, ...] = ()
    tiers: tuple[TierPolicy, ...] = ()
    plans: tuple[PricePlan, ...] = ()


class GatewayLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every bound of the data plane, each with its name. Defaults suit one host."""

    head_bytes: int = 16 * 1024
    """Request line and headers together; more is 431."""
    target_bytes: int = 4 * 1024
    """Request target; more is 414."""
    header_count: int = 64
    body_bytes: int = 8 * 1024 * 1024
    """More is 413."""
    bodies_bytes: int = 1024 * 1024 * 1024
    """Request bodies in memory together, but for those that came whole with their head; more is 503."""
    json_depth: int = 64
    head_timeout_s: float = 5.0
    """From the first byte of a request to the end of its head; then 408."""
    body_stall_timeout_s: float = 5.0
    """Longest silence inside a request body; then 408."""
    body_timeout_s: float = 60.0
    """A whole request body; then 408."""
    idle_timeout_s: float = 75.0
    """Keep-alive connection with no request under way."""
    requests_per_connection: int = 1_000_000
    connections: int = 4096
    """Open client connections; more are answered 503 and closed."""
    concurrent_requests: int = 2048
    """Requests with an upstream under way; more wait in the queue."""
    queue_length: int = 1024
    """Requests waiting for a place; more are 503."""
    queue_timeout_s: float = 60.0
    write_buffer_bytes: int = 256 * 1024
    """Unsent answer bytes per connection before upstream reading pauses."""
    write_stall_timeout_s: float = 30.0
    """A client that reads nothing for so long while bytes wait is cut off."""
    upstream_connect_timeout_s: float = 5.0
    upstream_first_byte_timeout_s: float = 600.0
    upstream_idle_timeout_s: float = 120.0
    """Longest silence inside an upstream answer."""
    upstream_idle_connections: int = 512
    upstream_answer_bytes: int = 64 * 1024 * 1024
    upstream_event_bytes: int = 4 * 1024 * 1024
    keepalive_after_s: float = 10.0
    """First SSE comment or blank line while a request waits; then at this interval."""
    media_parts: int = 32
    """Images and sounds in one request; more are 400."""
    media_part_bytes: int = 6 * 1024 * 1024
    """One image or sound, decoded; more is 413."""
    media_bytes: int = 24 * 1024 * 1024
    """All images and sounds of one request, decoded and those fetched included; more is 413."""
    media_pixels: int = 40_000_000
    """Width times height of one image, by its header; more is 400."""
    media_hosts: tuple[str, ...] = ()
    """Hosts that an image may be fetched from by its https URL; `.example.com` is every host below it."""
    media_fetch_timeout_s: float = 10.0
    """All images of one request, from the first look-up of a name to the last byte."""
    media_fetches: int = 64
    """Requests with fetched images under way in one gateway process, from the fetch to the end of the answer;
    more are 503."""


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cert_file: str
    key_file: str
    client_ca_file: str | None = None


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the supervisor tells one gateway worker, as a JSON file."""

    host: str
    port: int
    routes_file: str
    policy_file: str
    ledger_socket: str
    reuse_port: bool = False
    probe_port: int = 0
    """Loopback port where this worker alone answers `/health`, `/ready` and `/metrics`; 0: none."""
    worker: str = ""
    """Its number where several share the port; empty for the only one."""
    shared_limits: SharedLimits | None = None
    """Limits in Redis; None: in the memory of this process."""
    tls: TlsFiles | None = None
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    """Networks of proxies whose `X-Forwarded-For` names the caller; none: nobody's is read."""
    limits: GatewayLimits = GatewayLimits()
    access_log: bool = True
    identity_file: str = ""
    """Where the identity process writes who we are (`security.spiffe.Identity`); empty: nobody asks."""
