"""Engines' metrics under our names: recorded pages of every engine, the embedded engine's own, bad pages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sextant.app import engine_metrics, pages
from sextant.app.engine_metrics import Reading, Target, read_metrics, render, scrape, scrape_all, target_of
from sextant.app.state import reserve_port
from sextant.engines.adapters import ADAPTERS
from sextant.engines.protocol import Replica
from sextant.spec.engine_data import engines
from sextant.telemetry.table import TABLE
from stack_under_test import until

RECORDED = Path(__file__).parents[1] / "engines" / "recorded"
NANO = Path(engine_metrics.__file__).parents[1] / "models" / "nano" / "sextant-nano.gguf"
VLLM = engines()["vllm"].metrics
RATIO = "sextant_engine_kv_cache_used_ratio"
TTFT = "sextant_engine_time_to_first_token_seconds"


def page(engine: str) -> str:
    return (RECORDED / engine / "metrics.http").read_text().partition("\n\n")[2]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp", "triton", "trtllm", "nim", "mindie"])
def test_recorded_pages(engine: str) -> None:
    names = ADAPTERS[engine].metric_names
    values, distributions = read_metrics(page(engine), names)
    assert {"sextant_engine_prompt_tokens", "sextant_engine_generated_tokens"} <= set(values)
    assert set(values) | set(distributions) <= set(names.values())
    assert values["sextant_engine_generated_tokens"] > 0
    if engine != "llamacpp":
        assert distributions[TTFT].buckets[-1][0] == "+Inf"
        assert distributions[TTFT].buckets[-1][1] > 0
    if engine not in ("llamacpp", "triton"):
        assert 0 <= values[RATIO] <= 1


def test_vllm_is_read_to_the_number() -> None:
    values, distributions = read_metrics(page("vllm"), VLLM)
    families = {f.name: f for f in text_string_to_metric_families(page("vllm"))}
    assert values["sextant_engine_generated_tokens"] == families["vllm:generation_tokens"].samples[0].value
    samples = families["vllm:time_to_first_token_seconds"].samples
    assert distributions[TTFT].total == next(s.value for s in samples if s.name.endswith("_sum"))
    bounds = [s.labels["le"] for s in samples if s.name.endswith("_bucket")]
    assert [bound for bound, _ in distributions[TTFT].buckets] == bounds
    assert set(VLLM.values()) == set(values) | set(distributions)


def test_a_name_with_underscores_is_the_name_with_colons() -> None:
    assert read_metrics(page("vllm").replace("vllm:", "vllm_"), VLLM) == read_metrics(page("vllm"), VLLM)
    assert "sextant_engine_requests_running" not in read_metrics("xvllm:num_requests_running 1\n", VLLM)[0]


def test_series_are_added_up_and_of_ratios_the_largest_counts() -> None:
    text = (
        'vllm:num_requests_running{engine="0"} 3\nvllm:num_requests_running{engine="1"} 4\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.75\n'
        "vllm:num_requests_waiting NaN\n"
    )
    values, _ = read_metrics(text, VLLM)
    assert values == {"sextant_engine_requests_running": 7.0, RATIO: 0.75}


def test_of_two_names_for_one_thing_one_counts() -> None:
    text = "vllm:kv_cache_usage_perc 0.5\nvllm:gpu_cache_usage_perc 0.9\n"
    assert read_metrics(text, VLLM)[0] == {RATIO: 0.5}
    assert read_metrics("vllm:gpu_cache_usage_perc 0.9\n", VLLM)[0] == {RATIO: 0.9}


def test_histograms_with_different_bounds_are_not_added() -> None:
    name = "vllm:time_to_first_token_seconds_bucket"
    same = f'{name}{{e="0",le="1"}} 1\n{name}{{e="0",le="+Inf"}} 2\n'
    assert TTFT in read_metrics(same, VLLM)[1]
    assert TTFT not in read_metrics(f'{same}{name}{{e="1",le="+Inf"}} 2\n', VLLM)[1]


@given(st.text(alphabet='vlm:_{}="\n #x1.5e+ nan,\\', max_size=60))
def test_garbage_is_refused_with_a_reason_or_read(text: str) -> None:
    for given_text in (text, f"vllm:num_requests_running{text}"):
        try:
            read_metrics(given_text, VLLM)
        except ValueError as error:
            assert str(error)


def test_rendered_text_is_read_back() -> None:
    values, distributions = read_metrics(page("vllm"), VLLM)
    readings = [
        Reading("r1", "r1-0", values, distributions),
        Reading("r1", "r1-1", {"sextant_engine_requests_running": 2.0}),
        Reading("dead", "dead-0", failed="nothing listens there"),
    ]
    families = {f.name: f for f in text_string_to_metric_families(render(readings).decode())}
    table = {metric.name: metric for metric in TABLE}
    for name, family in families.items():
        assert family.type == table[name].kind
        assert {tuple(label for label in s.labels if label != "le") for s in family.samples} == {
            ("model", "upstream")
        }
    readable = {s.labels["upstream"]: s.value for s in families["sextant_engine_metrics_readable"].samples}
    assert readable == {"r1-0": 1.0, "r1-1": 1.0, "dead-0": 0.0}
    counts = [s.value for s in families[TTFT].samples if s.name.endswith("_count")]
    assert counts == [distributions[TTFT].buckets[-1][1]]
    assert b"vllm" not in render(readings)
    assert render([]).strip() == b""


@contextlib.asynccontextmanager
async def server(answer: bytes, *, hangs: bool = False) -> AsyncIterator[Target]:
    """A page that answers these bytes and then closes, or never."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            writer.write(answer)
            await writer.drain()
        if hangs:
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield Target("m", "m-0", f"http://127.0.0.1:{port}/metrics", VLLM)


PAGE = b"vllm:num_requests_running 3\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n" + PAGE,
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(PAGE), PAGE),
        b"HTTP/1.1 200\r\nContent-Length: %d\r\n\r\n%bmore" % (len(PAGE), PAGE),
    ],
)
async def test_a_page_is_had(answer: bytes) -> None:
    async with server(answer) as target:
        assert (await scrape(target)).values == {"sextant_engine_requests_running": 3.0}


LONG = pages.PAGE_BYTES_MAX + 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "not HTTP"),
        (b"SSH-2.0-x\r\n", "not HTTP"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "answered 401"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "chunked"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nvllm", "expected bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "invalid literal"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LONG, "at most 2,097,152 are read"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"#" * LONG, "longer than 2,097,152 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * LONG, "limit"),
        (b"HTTP/1.1 200 OK\r\n\r\nvllm:num_requests_running{ 3\n", ""),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe", "utf-8"),
    ],
)
async def test_a_bad_page_is_a_reading_that_says_why(answer: bytes, said: str) -> None:
    async with server(answer) as target:
        reading = await scrape(target)
    assert reading.failed
    assert said in reading.failed
    assert not reading.values


async def test_a_page_that_hangs_is_given_up_and_the_others_are_had() -> None:
    async with (
        server(b"HTTP/1.1 200 OK\r\n", hangs=True) as slow,
        server(b"HTTP/1.0 200 OK\r\n\r\n" + PAGE) as well,
    ):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        first, second = await scrape_all([slow, well], timeout_s=0.3)
        assert loop.time() - began_s < 2
    assert first.failed == "no answer within 0.3 s"
    assert second.values
    assert (await scrape(well)).failed  # nobody listens any more
    unreadable = Target("m", "m-0", "ftp://127.0.0.1:1/metrics", VLLM)
    assert "expected http://" in (await scrape(unreadable)).failed


async def test_a_missing_key_is_a_reading_that_says_so() -> None:
    async with server(b"HTTP/1.0 200 OK\r\n\r\n" + PAGE) as target:
        reading = await scrape(Target("m", "m-0", target.url, VLLM, "file:/nowhere/key"))
    assert "/nowhere/key" in reading.failed


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The embedded engine with the bundled model, running."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "key").write_text("key-of-the-test")
    (folder / "key").chmod(0o600)
    with reserve_port("127.0.0.1") as held:
        replica = Replica(
            id="nano-0",
            model_id="nano",
            model_path=str(NANO),
            context_tokens=256,
            port=held.getsockname()[1],
            key_file=str(folder / "key"),
            settings_file=str(folder / "engine.json"),
            options={"slots": 1},
        )
        launch = ADAPTERS["embedded"].launch(replica)
        for path, content in launch.files.items():
            Path(path).write_bytes(content)
        target = target_of("nano", "nano-0", launch, ADAPTERS["embedded"].metric_names)
        assert target is not None
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(launch.argv, stdout=log, stderr=log, env={**os.environ, **launch.env})
        try:
            until(lambda: not asyncio.run(scrape(target)).failed, "the engine's metrics are there")
            yield target
        finally:
            process.kill()
            process.wait()


async def test_the_embedded_engines_own_page(embedded: Target) -> None:
    reading = await scrape(embedded)
    assert not reading.failed
    assert set(reading.values) == set(embedded.names.values()) - {RATIO}  # that name is of older releases
    assert reading.values["sextant_engine_requests_running"] == 0
    text = render([reading]).decode()
    assert 'sextant_engine_generated_tokens_total{model="nano",upstream="nano-0"}' in text


async def test_the_embedded_engines_page_wants_the_key(embedded: Target) -> None:
    reading = await scrape(Target("nano", "nano-0", embedded.url, embedded.names))
    assert reading.failed == "the metrics page was answered 401"


def test_every_mapped_name_is_in_our_table_once_per_release() -> None:
    table = {metric.name: metric for metric in TABLE}
    for kind, data in engines().items():
        for theirs, ours in data.metrics.items():
            assert ours.startswith("sextant_engine_"), (kind, theirs)
            metric = table[ours]
            assert metric.labels == ("model", "upstream")
            assert theirs.endswith("_total") == (metric.kind == "counter"), (kind, theirs)


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running{" + ",".join(f'a{n}="b"' for n in range(150_000)) + "} 1",
        'vllm:num_requests_running{a="' + "x" * 2_000_000 + '"} 1',
        "\n".join('vllm:num_requests_running{a="b"} 1' for _ in range(50_000)),
    ],
    ids=["labels", "value", "lines"],
)
def test_a_page_made_to_be_slow_is_refused_at_once(line: str) -> None:
    names = {"vllm:num_requests_running": "sextant_engine_requests_running"}
    began = time.process_time()
    with pytest.raises(ValueError, match="metrics page"):
        read_metrics(line, names)
    assert read_metrics(line.replace("num_requests_running", "of_no_interest"), names) == ({}, {})
    assert time.process_time() - began < 1.0  # the parser alone takes a minute
