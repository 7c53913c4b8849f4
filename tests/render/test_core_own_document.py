"""The document that a bundle's gateway runs with can be read by `sextant up` as it stands."""

from __future__ import annotations

from tests.render.orders import EMBEDDED, R1, order

from sextant.render.own_document import Place, serving_document
from sextant.spec.document import parse_document
from sextant.spec.engine_sections import EmbeddedEngine, RemoteEngine

ELSEWHERE = Place(
    engines={"deepseek-r1": "http://deepseek-r1:8000/v1"},
    engine_keys={"deepseek-r1": "file:/run/secrets/engine"},
    host="0.0.0.0",
    tls=("/tls/tls.crt", "/tls/tls.key"),
    client_ca="/tls/ca.crt",
    workers=1,
    trusted_proxies=("10.0.0.0/8",),
    store={"url": "postgresql://sextant@db/sextant?sslmode=verify-full", "password": "file:/run/store"},
    limits={"url": "rediss://redis:6379", "password": "file:/run/secrets/limits"},
)  # fmt: skip


def test_an_engine_elsewhere_becomes_an_endpoint_that_speaks_its_dialect() -> None:
    made = parse_document(serving_document(order("private-cloud", **R1), ELSEWHERE))
    (model,) = made.spec.served
    engine = model.engine
    assert isinstance(engine, RemoteEngine)
    assert (model.name, model.source, model.personal_data) == ("deepseek-r1", None, "cleared")
    assert (engine.base_url, engine.api_key) == ("http://deepseek-r1:8000/v1", "file:/run/secrets/engine")
    assert (engine.speaks, engine.upstream_model, engine.context_tokens) == ("vllm", "deepseek-r1", 163_840)
    assert engine.capabilities.tools
    assert engine.capabilities.reasoning
    assert not engine.capabilities.fim
    assert (made.spec.mode, made.spec.gateway.host, made.spec.store.url[:13]) == (
        "on-prem",
        "0.0.0.0",
        "postgresql://",
    )
    assert made.spec.gateway.tls is not None
    assert made.spec.gateway.tls.client_ca_file == "/tls/ca.crt"
    assert made.spec.control.tls is not None
    assert made.spec.limits is not None


def test_tools_are_promised_only_where_a_parser_is_given() -> None:
    spec = {
        "model": {"name": "deepseek-v2-lite", "source": "hf:deepseek-ai/DeepSeek-V2-Lite-Chat"},
        "engine": {"kind": "vllm"},
        "sites": R1["sites"],
    }
    place = Place(engines={"deepseek-v2-lite": "http://e:8000/v1"})
    (model,) = parse_document(serving_document(order("private-cloud", **spec), place)).spec.served
    assert isinstance(model.engine, RemoteEngine)
    assert not model.engine.capabilities.tools
    assert not model.engine.capabilities.reasoning


def test_what_only_rendering_needs_is_left_out_and_the_rest_is_kept() -> None:
    spec = {
        **EMBEDDED,
        "profile": "finance",
        "scaling": {"max_replicas": 3},
        "delivery": {"namespace": "bank"},
        "sites": [{"name": "a"}],
        "gateway": {"port": 9000, "limits": {"head_bytes": 40_000}},
        "observability": {"access_log": False},
    }
    text = serving_document(order("edge", **spec), Place(sources={"sextant-nano": "/models/m.gguf"}))
    made = parse_document(text)
    assert (made.spec.mode, made.spec.profile, made.spec.sites) == ("edge", None, ())
    assert (made.spec.gateway.port, made.spec.gateway.limits.head_bytes) == (9000, 40_000)
    assert made.spec.observability.access_log is False
    (model,) = made.spec.served
    assert isinstance(model.engine, EmbeddedEngine)
    assert (model.source, model.personal_data) == ("/models/m.gguf", "guarded")
    for word in ("delivery", "scaling", "profile", "null"):
        assert word not in text


def test_entries_of_one_name_keep_their_pools() -> None:
    pools = [
        {"name": "deepseek-r1", "source": R1["model"]["source"], "engine": {"kind": "vllm"}},
        {"name": "deepseek-r1", "pool": "pro", "source": R1["model"]["source"], "engine": {"kind": "vllm"}},
    ]
    made = order("private-cloud", models=pools, sites=R1["sites"])
    assert [served.key for served in made.served] == ["deepseek-r1", "deepseek-r1-pro"]
    place = Place(engines={served.key: f"http://{served.key}:8000/v1" for served in made.served})
    shared = parse_document(serving_document(made, place)).spec.served
    urls = [served.engine.base_url for served in shared if isinstance(served.engine, RemoteEngine)]
    assert urls == ["http://deepseek-r1:8000/v1", "http://deepseek-r1-pro:8000/v1"]
