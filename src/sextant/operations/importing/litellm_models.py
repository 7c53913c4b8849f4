"""The models of a LiteLLM configuration: deployments, their addresses, keys, prices and other names."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sextant.base.errors import BadDocument
from sextant.operations.importing.catalogue import Catalogue, Endpoint
from sextant.operations.importing.fields import Fields
from sextant.operations.importing.money import price_of
from sextant.operations.importing.peers import is_compliant, peers
from sextant.operations.importing.plan import Note
from sextant.spec.policy import Price

ENVIRONMENT = "os.environ/"
_BOOKKEEPING = ("id", "db_model", "updated_at", "updated_by", "created_at", "created_by", "base_model")
_BY_NAME = ("gpt-", "o1", "o3", "o4", "text-embedding-", "chatgpt-")
"""Names that LiteLLM takes for OpenAI's when no prefix says whose they are."""


class LitellmModels:
    """Reads `model_list` into a catalogue; `prices` are those that the configuration states."""

    def __init__(self, notes: list[Note], catalogue: Catalogue, variables: dict[str, Any]) -> None:
        self._notes = notes
        self._catalogue = catalogue
        self._variables = variables
        self._credentials: dict[str, dict[str, Any]] = {}
        self.prices: dict[str, Price] = {}
        self.groups: dict[str, list[str]] = {}
        """Access groups, which keys and teams may name in place of models."""

    def read_credentials(self, listed: Any) -> None:
        """Takes in `credential_list`, which deployments name."""
        for number, item in enumerate(_listed(listed, "credential_list")):
            fields = Fields(item, f"credential_list[{number}]", self._notes)
            name = fields.text("credential_name")
            self._credentials[name] = dict(fields.mapping("credential_values").items())
            fields.passes("credential_info")
            fields.rest("a credential is its name and values")

    def read(self, listed: Any) -> None:
        """Takes in `model_list`."""
        items = _listed(listed, "model_list")
        for number, item in enumerate(items):
            self._deployment(Fields(item, f"model_list[{number}]", self._notes))

    def aliases(self, fields: Fields) -> None:
        """Takes in `model_group_alias`."""
        for name, target in fields.items():
            model = target.get("model") if isinstance(target, dict) else target
            self._catalogue.alias(name, str(model), f"{fields.where}.{name}")

    def _deployment(self, entry: Fields) -> None:
        name = entry.text("model_name")
        params = entry.mapping("litellm_params")
        info = entry.mapping("model_info")
        entry.rest("not a field of a deployment that has an equal here")
        if not name:
            raise BadDocument(f"{entry.where}.model_name: is missing; LiteLLM needs it too")
        if "*" in name:
            entry.note(f"`{name}` passes any model through; name each model that is to be served")
            return
        kind, capabilities = self._capabilities(info)
        for group in info.names("access_groups"):
            self.groups.setdefault(group, []).append(name)
        context = info.whole("max_input_tokens") or info.whole("max_tokens")
        self._price(name, params, info)
        endpoint = self._endpoint(name, params, capabilities)
        info.passes(*_BOOKKEEPING, "max_input_tokens", "max_tokens", "max_output_tokens")
        info.rest("says nothing to the gateway here")
        if kind:
            entry.note(f"`{name}` is for {kind}, which is not served here")
        elif endpoint is not None:
            made = {
                **{f: getattr(endpoint, f) for f in endpoint.__struct_fields__},
                "context_tokens": context,
            }
            self._catalogue.add(Endpoint(**made), entry.where)

    def _capabilities(self, info: Fields) -> tuple[str, dict[str, bool]]:
        """What the model is for when that is not served here, and its capabilities where they are not the
        usual ones."""
        mode = info.text("mode") or "chat"
        found: dict[str, bool] = {}
        for name, ours in (
            ("supports_vision", "vision"),
            ("supports_audio_input", "audio"),
            ("supports_function_calling", "tools"),
            ("supports_response_schema", "json_schema"),
            ("supports_reasoning", "reasoning"),
        ):
            if name in info:
                found[ours] = info.flag(name)
        if mode in ("embedding", "rerank"):
            only = "embeddings" if mode == "embedding" else "rerank"
            return "", {**found, "chat": False, "completions": False, "tools": False, only: True}
        if mode == "completion":
            found["chat"] = False
        return ("" if mode in ("chat", "completion", "responses") else mode), found

    def _endpoint(self, name: str, params: Fields, capabilities: dict[str, bool]) -> Endpoint | None:
        model = params.text("model")
        prefix, _, upstream = model.partition("/")
        provider = params.text("custom_llm_provider") or (prefix if upstream else "")
        if not upstream or prefix != provider:
            upstream = model
        if not provider and upstream.startswith(_BY_NAME):
            provider = "openai"
        named = self._credentials.get(params.text("litellm_credential_name"), {})
        given = {**{key: named.get(key) for key in ("api_base", "api_key")}}
        base_url = self._resolved(params.text("api_base") or params.text("base_url") or given["api_base"])
        api_key = params.text("api_key") or str(given["api_key"] or "")
        concurrent = params.whole("max_parallel_requests")
        for field in ("rpm", "tpm"):
            params.leave(field, "a limit of one endpoint; limits here are those of keys, projects, tenants")
        params.rest("a setting of LiteLLM's own client; see spec.gateway.limits for the bounds here")
        known = peers().litellm
        if provider in ("ollama", "ollama_chat"):
            base_url = f"{(base_url or 'http://localhost:11434').rstrip('/').removesuffix('/v1')}/v1"
            params.changed("called at Ollama's OpenAI-compatible path instead of its own")
        elif provider not in known.providers:
            said = f"provider `{provider}`" if provider else f"`{model}`, whose provider is not named,"
            params.note(f"{said} is not known to speak OpenAI's API; `{name}` is not served", "model")
            return None
        base_url = base_url or known.providers.get(provider, "")
        if not base_url:
            params.note(
                f"`{name}` names no api_base, or one from a variable without a value here", "api_base"
            )
            return None
        if not api_key and provider in known.key_variables and base_url == known.providers.get(provider):
            api_key = ENVIRONMENT + known.key_variables[provider]
        return Endpoint(
            name,
            base_url.rstrip("/"),
            upstream,
            self._secret(name, api_key, params.where),
            compliant=is_compliant(base_url),
            capabilities=capabilities,
            concurrent_requests=concurrent,
        )

    def _secret(self, name: str, value: str, where: str) -> str:
        if value.startswith(ENVIRONMENT):
            return f"env:{value.removeprefix(ENVIRONMENT)}"
        if value.lower() in ("", "none", "dummy", "empty", "fake", "not-needed", "anything"):
            return ""
        return self._catalogue.reference(name, f"{where}.api_key", value)

    def _resolved(self, value: Any) -> str:
        """A setting that may be taken from a variable which the configuration itself sets."""
        text = str(value or "")
        if text.startswith(ENVIRONMENT):
            return str(self._variables.get(text.removeprefix(ENVIRONMENT), ""))
        return text

    def _price(self, name: str, params: Fields, info: Fields) -> None:
        found: dict[str, Decimal] = {}
        for field, ours in (
            ("input_cost_per_token", "input"),
            ("output_cost_per_token", "output"),
            ("cache_read_input_token_cost", "cached"),
            ("output_cost_per_reasoning_token", "reasoning"),
        ):
            for fields in (params, info):
                amount = fields.number(field)
                if amount is not None:
                    found.setdefault(ours, amount)
        if "input" in found or "output" in found:
            self.prices.setdefault(name, price_of(name, found))


def _listed(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadDocument(f"{where}: expected a list", field=where)
    return value
