"""The channels of a One API or New API database: models, their addresses, and which group may use which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sextant.operations.importing.catalogue import Catalogue, Endpoint
from sextant.operations.importing.fields import Fields
from sextant.operations.importing.peers import ChannelData, is_compliant
from sextant.operations.importing.plan import Note

ENABLED = 1
_BOOKS = (
    "created_time",
    "test_time",
    "response_time",
    "balance",
    "balance_updated_time",
    "used_quota",
    "test_model",
    "other_info",
    "tag",
    "remark",
    "auto_ban",
    "id",
)


class Channels:
    """Reads channels into a catalogue; `by_group` says which models each group of users may call."""

    def __init__(self, notes: list[Note], catalogue: Catalogue, known: ChannelData) -> None:
        self._notes = notes
        self._catalogue = catalogue
        self._known = known
        self.by_group: dict[str, dict[str, None]] = {}

    def read(self, rows: Sequence[Any]) -> None:
        """Takes the rows in, those of the highest priority first, as they would have been chosen."""
        fields = [Fields(row, f"channel {row.get('id')} ({row.get('name')})", self._notes) for row in rows]
        ranked = [
            (-(channel.whole("priority") or 0), -(channel.whole("weight") or 0), channel)
            for channel in fields
        ]
        for _priority, _weight, channel in sorted(ranked, key=lambda one: one[:2]):
            self._channel(channel)

    def _channel(self, channel: Fields) -> None:
        kind = channel.text("type")
        name, address, path = self._known.channels.get(kind, ("", "", ""))
        models = channel.names("models")
        groups = channel.names("group") or ("default",)
        keys = channel.text("key").split("\n")
        base_url = channel.text("base_url").rstrip("/") or address
        mapping = {str(old): str(new) for old, new in channel.mapping("model_mapping").items()}
        if channel.whole("status") != ENABLED:
            channel.note(f"switched off there; it would have served {_few(models)}")
            channel.items()
            return
        if not name:
            channel.note(f"type {kind} is not known to speak OpenAI's API; {_few(models)} are not served")
            channel.items()
            return
        if not base_url:
            channel.note(f"a channel of type {name} needs a base_url; {_few(models)} are not served")
            channel.items()
            return
        if name in ("Ollama", "Ali"):
            channel.changed(f"called at {name}'s OpenAI-compatible path {path}")
        if len([key for key in keys if key.strip()]) > 1:
            channel.note(f"{len(keys) - 1} of its {len(keys)} keys; an endpoint has one key here", "key")
        for group in groups:
            self.by_group.setdefault(group, {}).update(dict.fromkeys(models))
        root = base_url if base_url.endswith(path) else f"{base_url}{path}"
        key = keys[0].strip()
        for model in models:
            reference = (
                self._catalogue.reference(_key_name(channel.where), f"{channel.where}.key", key)
                if key
                else ""
            )
            endpoint = Endpoint(
                model, root, mapping.get(model, model), reference, compliant=is_compliant(f"{root}/")
            )
            self._catalogue.add(endpoint, channel.where)
        channel.passes(*_BOOKS, "name")
        info = channel.mapping("channel_info")
        info.passes("is_multi_key", "multi_key_size", "multi_key_polling_index", "multi_key_mode")
        info.items()
        channel.rest("a setting of the channel that has no equal here")


def _key_name(where: str) -> str:
    return where.replace("(", "").replace(")", "")


def _few(models: Sequence[str]) -> str:
    shown = ", ".join(models[:5])
    return f"{shown} and {len(models) - 5} more" if len(models) > 5 else shown or "no model"
