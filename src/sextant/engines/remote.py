"""The remote engine: any OpenAI-compatible endpoint, with its key by reference. No process is launched.

Health is `GET <base_url>/models` with the key. The endpoint is taken at its word about the API's shape unless
`compliant: false` says that its answers must be completed.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from sextant.base.errors import Misconfigured
from sextant.engines.protocol import Launch, Replica
from sextant.spec.snapshot import Capabilities, Quirks

READY_TIMEOUT_S = 20.0


class RemoteEngine:
    """The adapter for an endpoint that somebody else runs."""

    name = "remote"
    quirks = Quirks(compliant=False, counts_reasoning=True)
    capabilities = Capabilities(fim=True, embeddings=True)
    metric_names: Mapping[str, str] = {}

    def launch(self, replica: Replica) -> Launch:
        parts = urlsplit(replica.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misconfigured(
                f"engine remote: base_url is {replica.base_url!r}; expected http(s)://host[:port]/path, for "
                f"example https://api.deepseek.com/v1",
                field="spec.engine.base_url",
            )
        root = replica.base_url.rstrip("/")
        return Launch(
            argv=(),
            env={},
            base_url=root,
            health_path=f"{parts.path.rstrip('/')}/models",
            metrics_path=None,
            ready_timeout_s=READY_TIMEOUT_S,
            stop_timeout_s=0.0,
            api_key_ref=replica.api_key_ref,
            upstream_model=replica.upstream_model,
            health_needs_key=True,
        )
