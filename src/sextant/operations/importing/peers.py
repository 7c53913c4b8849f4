"""What is known of other gateways' endpoints and units: the shipped table `spec/data/importing.toml`."""

from __future__ import annotations

import functools
import tomllib
from importlib import resources

import msgspec


class LitellmData(msgspec.Struct, frozen=True):
    providers: dict[str, str]
    """Prefix of a model to the API root; empty where only the configuration knows it."""
    key_variables: dict[str, str]


class ChannelData(msgspec.Struct, frozen=True):
    channels: dict[str, tuple[str, str, str]]
    """Channel type to name, address, and the path of the API root below the address."""
    quota_per_usd: int = 0


class PeerData(msgspec.Struct, frozen=True):
    litellm: LitellmData
    one_api: ChannelData
    new_api: ChannelData


@functools.cache
def peers() -> PeerData:
    """The table."""
    text = resources.files("sextant.spec").joinpath("data/importing.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), PeerData)


def is_compliant(base_url: str) -> bool:
    """Whether the endpoint is known to write every published field itself."""
    return base_url.startswith(("https://api.openai.com/", "https://api.deepseek.com"))
