"""From a document to what will run: flags over the document, exposure, context, secrets."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from sextant.app import placing
from sextant.app.events import Event
from sextant.app.model_plan import EMBEDDED_CONCURRENCY_MAX
from sextant.app.placing import Ports, embedded_of, place_models
from sextant.app.plan import (
    Overrides,
    Plan,
    bundled_model_path,
    gateway_workers,
    is_loopback,
    make_plan,
)
from sextant.app.state import StateDir
from sextant.base.errors import Misconfigured
from sextant.spec.document import load_document, parse_document

HEAD = "apiVersion: sextant.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: t}\nspec:\n"
REMOTE = (
    "  model: {name: big, aliases: [deepseek-chat]}\n"
    "  engine: {kind: remote, base_url: 'https://api.example.com/v1', api_key: 'env:KEY', compliant: true}\n"
)
EMBEDDED = "  model: {name: sextant-nano}\n  engine: {kind: embedded, slots: 2, threads: 1}\n"
TWO = (
    "  models:\n"
    "    - {name: sextant-nano, engine: {kind: embedded}, concurrent_requests: 7, queue_length: 9}\n"
    "    - {name: org/big, engine: {kind: remote, base_url: 'https://api.example.com/v1'}}\n"
    "    - {name: org-big, engine: {kind: remote, base_url: 'https://other.example.com/v1'}}\n"
)


def plan(tmp_path: Path, text: str | None, **flags: object) -> Plan:
    document = load_document(None) if text is None else parse_document(HEAD + text)
    overrides = msgspec.convert(flags, Overrides)
    state = StateDir(tmp_path / "state")
    told: list[Event] = []
    with contextlib.closing(Ports()) as ports:
        places = place_models(document.spec.served, state, told.append, ports, embedded=embedded_of(document))
    return make_plan(document, state, overrides, places)


def test_the_built_in_document(tmp_path: Path) -> None:
    made = plan(tmp_path, None)
    model = made.models[0]
    assert model.id == "sextant-nano"
    assert {"deepseek-flash", "deepseek-v4-pro", "deepseek-chat", "claude-*"} < set(model.aliases)
    assert model.context_tokens == 4096
    assert model.capabilities.fim
    assert not model.quirks.compliant
    assert not model.upstreams[0].ready
    assert model.upstreams[0].base_url == f"http://127.0.0.1:{urlsplit(model.upstreams[0].base_url).port}/v1"
    assert model.created_s == int(bundled_model_path("sextant-nano").stat().st_mtime)
    assert made.engines[0].launch.argv
    assert (made.url, made.control_url) == ("http://127.0.0.1:8000", "http://127.0.0.1:8001")
    assert made.warnings == ()


@pytest.mark.parametrize("mode", ["on-prem", "edge", "private-cloud", "hybrid", "container", "saas"])
def test_every_mode_starts_its_local_part(tmp_path: Path, mode: str) -> None:
    made = plan(tmp_path, f"  mode: {mode}\n{EMBEDDED}")
    assert [model.id for model in made.models] == ["sextant-nano"]
    said = [warning for warning in made.warnings if f"spec.mode is {mode}" in warning]
    assert len(said) == (mode not in ("on-prem", "edge"))


def test_a_remote_endpoint_may_name_the_engine_that_answers_there(tmp_path: Path) -> None:
    (plain,) = plan(tmp_path, REMOTE).models
    (told,) = plan(tmp_path, REMOTE.replace("kind: remote", "kind: remote, speaks: vllm")).models
    assert plain.quirks.reasoning_field == "reasoning_content"
    assert told.quirks.reasoning_field == "reasoning"
    assert told.quirks.compliant


def test_entries_of_one_name_serve_different_pools(tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        "  models:\n"
        "    - {name: nano, engine: {kind: remote, base_url: 'https://a.example.com/v1'}}\n"
        "    - {name: nano, pool: gold, engine: {kind: remote, base_url: 'https://b.example.com/v1'}}\n"
        "    - {name: own, tenants: [bank], engine: {kind: remote, base_url: 'https://c.example.com/v1'}}\n",
    )
    assert [(m.id, m.pool, m.tenants) for m in made.models] == [
        ("nano", "", ()),
        ("nano", "gold", ()),
        ("own", "", ("bank",)),
    ]
    assert len({engine.upstream_id for engine in made.engines}) == 3


def test_an_embedded_engine_gets_no_more_than_it_serves(tmp_path: Path) -> None:
    assert plan(tmp_path, EMBEDDED).models[0].concurrent_requests == 4  # twice its slots
    fewer = EMBEDDED.replace("{name: sextant-nano}", "{name: sextant-nano, concurrent_requests: 3}")
    assert plan(tmp_path, fewer).models[0].concurrent_requests == 3
    more = EMBEDDED.replace("{name: sextant-nano}", "{name: sextant-nano, concurrent_requests: 900}")
    assert plan(tmp_path, more).models[0].concurrent_requests == EMBEDDED_CONCURRENCY_MAX
    assert plan(tmp_path, REMOTE).models[0].concurrent_requests == 0


def test_several_models(tmp_path: Path) -> None:
    made = plan(tmp_path, TWO)
    assert [model.id for model in made.models] == ["sextant-nano", "org/big", "org-big"]
    assert [engine.upstream_id for engine in made.engines] == ["sextant-nano-0", "org-big-0", "org-big.2-0"]
    assert (made.models[0].concurrent_requests, made.models[0].queue_length) == (7, 9)
    assert (made.models[1].concurrent_requests, made.models[1].queue_length) == (0, 0)
    assert made.models[1].upstreams[0].upstream_model == "org/big"


def test_workers_have_a_port_to_be_asked_at_and_share_the_places(tmp_path: Path) -> None:
    rest = "  gateway: {workers: 2}\n  limits: {url: 'redis://10.0.0.9:6379', password: 'env:P'}\n"
    made = plan(tmp_path, EMBEDDED + rest)
    assert made.models[0].concurrent_requests == 2  # of the four that one worker would have
    assert any("rediss://" in warning for warning in made.warnings)
    workers = gateway_workers(made, [41001, 41002])
    assert list(workers) == ["gateway-1", "gateway-2"]
    assert [worker.probe_port for worker in workers.values()] == [41001, 41002]
    assert all(worker.reuse_port for worker in workers.values())
    names = {worker.shared_limits.worker for worker in workers.values() if worker.shared_limits}
    assert names == {f"{tmp_path}/state:1", f"{tmp_path}/state:2"}
    assert gateway_workers(plan(tmp_path, EMBEDDED), []) == {"gateway": plan(tmp_path, EMBEDDED).gateway}


def test_books_over_a_network_without_a_proof_are_told(tmp_path: Path) -> None:
    url = "postgresql://a@db.example.com/b"
    assert any(
        "verify-full" in said for said in plan(tmp_path, f"{REMOTE}  store: {{url: '{url}'}}\n").warnings
    )
    safe = f"{REMOTE}  store: {{url: '{url}?sslmode=verify-full'}}\n"
    assert plan(tmp_path, safe).warnings == ()
    assert plan(tmp_path, safe).store.url.endswith("verify-full")


def test_models_that_crowd_each_other_are_told(tmp_path: Path) -> None:
    fewer = TWO + "  gateway: {limits: {concurrent_requests: 6}}\n"
    (warning,) = plan(tmp_path, fewer).warnings
    assert "may have 7 requests under way and the gateway 6" in warning
    assert plan(tmp_path, TWO).warnings == ()


def test_several_embedded_engines_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "default_threads", lambda: 7)
    source = bundled_model_path("sextant-nano")
    entries = "".join(
        f"    - {{name: m{n}, source: {source}, engine: {{kind: embedded{more}}}}}\n"
        for n, more in enumerate(("", "", ", threads: 5"))
    )
    made = plan(tmp_path, f"  models:\n{entries}")
    settings = [json.loads(next(iter(engine.launch.files.values()))) for engine in made.engines]
    assert [one["threads"] for one in settings] == [2, 2, 5]
    assert len({one["port"] for one in settings}) == 3


def test_a_launched_engine(tmp_path: Path) -> None:
    folder = tmp_path / "weights.gguf"
    folder.write_bytes(bundled_model_path("sextant-nano").read_bytes())
    text = (
        f"  model: {{name: mine, source: {folder}}}\n"
        "  engine: {kind: llamacpp, command: [./llama-server], "
        "args: [--flash-attn], stop_timeout_s: 7}\n"
    )
    made = plan(tmp_path, text)
    launch, model = made.engines[0].launch, made.models[0]
    keeper, _, engine = " ".join(launch.argv).partition(" -- ")
    assert "sextant.engines.keeper --grace-s 7" in keeper
    assert engine.startswith("./llama-server ") and engine.endswith(" --flash-attn")
    assert str(folder) in engine
    assert launch.stop_timeout_s > 7
    assert launch.ready_timeout_s >= 900
    assert (model.engine, model.context_tokens) == ("llamacpp", 4096)
    assert "sk-" not in engine


def test_a_launched_engine_must_be_told_what_to_load(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="must be told what to load for mine; add `source: PATH`"):
        plan(tmp_path, "  model: {name: mine}\n  engine: {kind: vllm}\n")


def test_a_remote_endpoint(tmp_path: Path) -> None:
    made = plan(tmp_path, REMOTE)
    upstream = made.models[0].upstreams[0]
    assert made.engines[0].launch.argv == ()
    assert (upstream.base_url, upstream.api_key_ref) == ("https://api.example.com/v1", "env:KEY")
    assert upstream.upstream_model == "big"
    assert made.models[0].quirks.compliant
    assert made.models[0].created_s > 1_700_000_000


def test_personal_data_may_go_to_what_runs_here(tmp_path: Path) -> None:
    assert plan(tmp_path, EMBEDDED).models[0].clears_personal_data
    assert not plan(tmp_path, REMOTE).models[0].clears_personal_data
    for text, word, cleared in ((EMBEDDED, "guarded", False), (REMOTE, "cleared", True)):
        changed = text.replace("model: {name:", f"model: {{personal_data: {word}, name:")
        assert changed != text
        assert plan(tmp_path, changed).models[0].clears_personal_data is cleared


def test_flags_stand_over_the_document(tmp_path: Path) -> None:
    text = EMBEDDED + "  gateway: {port: 9000}\n  control: {port: 9001}\n"
    made = plan(tmp_path, text, port=9100, control_port=9101, host="::1")
    assert (made.url, made.control_url) == ("http://[::1]:9100", "http://127.0.0.1:9101")
    with pytest.raises(Misconfigured, match="cannot share port 9001"):
        plan(tmp_path, text, port=9001)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_plain_http_beyond_this_machine_needs_a_word(tmp_path: Path, host: str) -> None:
    with pytest.raises(Misconfigured, match=r"without TLS.*--insecure"):
        plan(tmp_path, EMBEDDED, host=host)
    (warning,) = plan(tmp_path, EMBEDDED, host=host, insecure=True).warnings
    assert "clear text" in warning
    tls = "  gateway: {tls: {cert_file: /c, key_file: /k}}\n"
    made = plan(tmp_path, EMBEDDED + tls, host=host)
    assert made.warnings == ()
    assert made.url.startswith("https://")


def test_the_admin_api_needs_it_too(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="the admin API would listen on"):
        plan(tmp_path, EMBEDDED + "  control: {host: 0.0.0.0}\n")


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("h", False),
    ],
)
def test_loopback(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours
