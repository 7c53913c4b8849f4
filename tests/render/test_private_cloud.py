"""The private cloud's bundle for one document, as it is written to disk: reviewed as code.

To write it anew after a change that is meant: `SEXTANT_WRITE_GOLDEN=1 pytest` with this file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.render.orders import order
from tests.render.schema_check import objects_of

from sextant.base.errors import Unsupported
from sextant.render import render

GOLDEN = Path(__file__).parent / "golden" / "private-cloud"
FILES = ("cluster/00-namespaces.yaml", "manifests/10-network.yaml", "manifests/40-engine-deepseek-r1.yaml",
         "manifests/50-gateway.yaml", "manifests/70-scaling.yaml")  # fmt: skip
BANK = {
    "model": {"name": "deepseek-r1", "source": "hf:deepseek-ai/DeepSeek-R1"},
    "engine": {"kind": "sglang", "context_tokens": 16384},
    "sites": [{"name": "hall-1", "accelerators": [{"name": "H100", "count": 32}]}],
    "scaling": {"min_replicas": 1, "max_replicas": 4},
    "delivery": {
        "namespace": "llm",
        "quotas": [
            {"name": "finance", "percent": 40},
            {"name": "risk", "percent": 30},
            {"name": "audit", "percent": 30},
        ],
    },
}


@pytest.mark.parametrize("path", FILES)
def test_the_files_are_as_they_were_reviewed(path: str) -> None:
    made = next(
        file.content for file in render(order("private-cloud", "bank", **BANK)).files if file.path == path
    )
    golden = GOLDEN / path.replace("/", "--")
    if os.environ.get("SEXTANT_WRITE_GOLDEN"):
        golden.write_bytes(made)
    assert made.decode() == golden.read_text()


def test_what_it_takes_to_render() -> None:
    given = order("private-cloud", "bank", **BANK)
    render(given)
    spent_s = min(_timed(given) for _ in range(5))
    assert spent_s < 0.3  # the bound of the product; it takes a tenth of it


def _timed(given: object) -> float:
    start_s = time.process_time()
    render(given)  # type: ignore[arg-type]
    return time.process_time() - start_s


def test_steps_come_in_an_order_that_works() -> None:
    bundle = render(order("private-cloud", "bank", **BANK))
    typed = [command for step in bundle.install for command in step.commands]
    cluster = next(i for i, each in enumerate(typed) if each.endswith("-f cluster/"))
    secrets = next(i for i, each in enumerate(typed) if "create secret generic engine-key" in each)
    manifests = next(i for i, each in enumerate(typed) if each.endswith("-f manifests/"))
    weights = next(i for i, each in enumerate(typed) if "job/fetch-deepseek-r1" in each)
    assert cluster < secrets < manifests < weights
    everywhere = [file.path for file in bundle.files if file.path.endswith(".yaml")]
    assert all(path.split("/")[0] in ("cluster", "manifests", "after", "optional") for path in everywhere)


def test_what_the_administrator_applies_is_apart() -> None:
    bundle = render(order("private-cloud", "bank", **BANK))
    ours = {"llm", "llm-finance", "llm-risk", "llm-audit"}
    for file in bundle.files:
        if file.path.startswith("manifests/"):
            spaces = {
                line.split()[1]
                for line in file.content.decode().splitlines()
                if line.startswith("  namespace:")
            }
            assert spaces <= ours


def test_shared_engines_leave_the_rest_to_the_lines() -> None:
    quotas = {
        body["metadata"]["namespace"]: body["spec"]["hard"]["requests.nvidia.com/gpu"]
        for body in objects_of(render(order("private-cloud", "bank", **BANK)))
        if body["kind"] == "ResourceQuota"
    }
    assert quotas["llm"] == "16"
    assert (quotas["llm-finance"], quotas["llm-risk"], quotas["llm-audit"]) == ("6", "5", "5")


def test_a_name_that_is_too_long_is_refused() -> None:
    model = {"name": "x" * 60, "source": "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"}
    with pytest.raises(Unsupported, match="at most 63"):
        render(order("private-cloud", model=model, engine={"kind": "vllm"},
                     sites=[{"name": "h", "accelerators": [{"name": "L40S", "count": 4}]}]))  # fmt: skip


def test_an_embedded_engine_with_a_source_is_refused() -> None:
    model = {"name": "mine", "source": "hf:a/b"}
    with pytest.raises(Unsupported, match="kind: llamacpp"):
        render(order("private-cloud", model=model, engine={"kind": "embedded"}))


def test_secrets_that_the_document_names_have_a_command() -> None:
    own = {
        "store": {"url": "postgresql://sextant@10.0.0.7/sextant", "password": "env:DB_PASSWORD"},
        "limits": {"url": "rediss://redis.example.com:6380", "password": "file:/etc/redis/password"},
    }
    bundle = render(order("private-cloud", "bank", **BANK, **own))
    typed = [command for step in bundle.install for command in step.commands]
    assert "kubectl -n llm create secret generic sextant-files --from-file=etc-redis-password" in typed
    assert "kubectl -n llm create secret generic sextant-environment --from-env-file=sextant.env" in typed
