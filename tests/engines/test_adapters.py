"""The adapters: pure descriptions of what to launch and where to look."""

from __future__ import annotations

import json

import msgspec
import pytest

from sextant.base.errors import Misconfigured
from sextant.engines.embedded import EmbeddedEngine, EmbeddedSettings
from sextant.engines.protocol import EngineAdapter, Replica
from sextant.engines.remote import RemoteEngine

EMBEDDED = Replica(
    id="nano-0",
    model_id="nano",
    model_path="/models/nano.gguf",
    context_tokens=1024,
    port=4001,
    key_file="/state/secrets/engine",
    settings_file="/state/run/engine.json",
)
REMOTE = Replica(
    id="v3-0", model_id="v3", model_path="", context_tokens=65536, port=0, key_file="", settings_file="",
    base_url="https://api.example.com/v1/", api_key_ref="env:UPSTREAM_KEY", upstream_model="deepseek-v3",
)  # fmt: skip


def test_both_follow_the_protocol() -> None:
    adapters: list[EngineAdapter] = [EmbeddedEngine(), RemoteEngine()]
    assert [adapter.name for adapter in adapters] == ["embedded", "remote"]


def test_embedded_launch() -> None:
    replica = msgspec.structs.replace(EMBEDDED, options={"slots": 8, "threads": 3, "stop_timeout_s": 2.0})
    launch = EmbeddedEngine().launch(replica)
    assert launch.argv[1:] == (
        "-m",
        "sextant.engines.embedded_server",
        "--settings",
        "/state/run/engine.json",
    )
    assert launch.base_url == "http://127.0.0.1:4001/v1"
    assert launch.health_path == "/health"
    assert launch.api_key_ref == "file:/state/secrets/engine"
    assert launch.stop_timeout_s == 2.0
    settings = msgspec.json.decode(launch.files["/state/run/engine.json"], type=EmbeddedSettings)
    assert (settings.slots, settings.threads, settings.context_tokens) == (8, 3, 1024)
    assert "engine" not in json.dumps(launch.env)  # no secret travels in argv or the environment


def test_embedded_default_threads_leave_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sextant.engines.embedded.default_threads", lambda: 5)
    launch = EmbeddedEngine().launch(EMBEDDED)
    assert json.loads(launch.files["/state/run/engine.json"])["threads"] == 5


@pytest.mark.parametrize("options", [{"slot": 3}, {"slots": 0}, {"slots": "four"}, {"threads": 5000}])
def test_embedded_wrong_options_are_told(options: dict[str, object]) -> None:
    with pytest.raises(Misconfigured, match="its options are slots, threads"):
        EmbeddedEngine().launch(msgspec.structs.replace(EMBEDDED, options=options))


def test_remote_launches_nothing() -> None:
    launch = RemoteEngine().launch(REMOTE)
    assert launch.argv == ()
    assert launch.base_url == "https://api.example.com/v1"
    assert launch.health_path == "/v1/models"
    assert launch.health_needs_key
    assert launch.api_key_ref == "env:UPSTREAM_KEY"
    assert launch.upstream_model == "deepseek-v3"


@pytest.mark.parametrize("url", ["", "api.example.com/v1", "ftp://api.example.com", "http://"])
def test_remote_wrong_url_is_told(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"expected http\(s\)://host"):
        RemoteEngine().launch(msgspec.structs.replace(REMOTE, base_url=url))
