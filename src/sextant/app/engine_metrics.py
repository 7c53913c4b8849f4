"""Engines' own metrics, read from their `/metrics` and served under our names.

Which of an engine's names means what stands in `spec/data/engines.toml`. A name is taken with colons and with
underscores (`vllm:x`, `vllm_x`: exporters in between rewrite it). Series of one metric are added up, but for
ratios, of which the largest counts; where an engine has two names for one thing, the first in the data that
it serves. `scrape_all` asks, bounded in time and bytes; `render` makes the Prometheus text.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec
import prometheus_client as prom
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from sextant.app.pages import exchange
from sextant.base.config import resolve_secret
from sextant.base.errors import Misconfigured
from sextant.engines.protocol import Launch
from sextant.telemetry.table import TABLE, Metric

SCRAPE_TIMEOUT_S = 2.0
SCRAPES_AT_ONCE = 16
LINE_CHARS_MAX = 2048
LINES_MAX = 4096
READABLE = "sextant_engine_metrics_readable"
RUNNING, WAITING = "sextant_engine_requests_running", "sextant_engine_requests_waiting"

_METRICS: Mapping[str, Metric] = {metric.name: metric for metric in TABLE}
_PARTS = ("_bucket", "_sum", "_count")
_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*", re.ASCII)


class Target(msgspec.Struct, frozen=True):
    """One replica's metrics page. `names` are its own metric names to ours."""

    model: str
    upstream: str
    url: str
    names: Mapping[str, str]
    api_key_ref: str | None = None


class Distribution(msgspec.Struct, frozen=True):
    """A histogram: cumulative counts by upper bound (as written, `+Inf` last), and the sum."""

    buckets: tuple[tuple[str, float], ...]
    total: float


class Reading(msgspec.Struct, frozen=True):
    """What one replica's page said, in our names. `failed` says why it could not be read."""

    model: str
    upstream: str
    values: Mapping[str, float] = {}
    distributions: Mapping[str, Distribution] = {}
    failed: str = ""


def target_of(model: str, upstream: str, launch: Launch, names: Mapping[str, str]) -> Target | None:
    """Where to read a replica's metrics; None where its engine serves none that we know."""
    if launch.metrics_path is None or not names:
        return None
    parts = urlsplit(launch.base_url)
    url = f"{parts.scheme}://{parts.netloc}{launch.metrics_path}"
    return Target(model, upstream, url, names, launch.api_key_ref)


async def scrape_all(targets: Sequence[Target], *, timeout_s: float = SCRAPE_TIMEOUT_S) -> list[Reading]:
    """One reading for each target, in their order. One that fails says so; none raises."""
    places = asyncio.Semaphore(SCRAPES_AT_ONCE)

    async def one(target: Target) -> Reading:
        async with places:
            return await scrape(target, timeout_s=timeout_s)

    return list(await asyncio.gather(*(one(target) for target in targets)))


async def scrape(target: Target, *, timeout_s: float = SCRAPE_TIMEOUT_S) -> Reading:
    """What `target` says now. A page that cannot be had or read is a reading with its reason."""
    try:
        async with asyncio.timeout(timeout_s):
            body = await _get(target)
        values, distributions = read_metrics(body.decode("utf-8"), target.names)
    except TimeoutError:
        return Reading(target.model, target.upstream, failed=f"no answer within {timeout_s:g} s")
    except (OSError, EOFError, ValueError, Misconfigured) as error:
        return Reading(target.model, target.upstream, failed=str(error) or type(error).__name__)
    return Reading(target.model, target.upstream, values, distributions)


def idle_check(target: Target | None) -> Callable[[], Awaitable[bool]] | None:
    """A question whether the engine works on nothing; None where it does not say. No answer means no."""
    if target is None or RUNNING not in target.names.values():
        return None

    async def idle() -> bool:
        reading = await scrape(target)
        return not reading.failed and not reading.values.get(RUNNING, 1.0) + reading.values.get(WAITING, 0.0)

    return idle


def read_metrics(text: str, names: Mapping[str, str]) -> tuple[dict[str, float], dict[str, Distribution]]:
    """The values and histograms of `text` that `names` gives a name of ours.

    Raises ValueError when it is no Prometheus text.
    """
    series = _series(_wanted(text, names))
    values: dict[str, float] = {}
    distributions: dict[str, Distribution] = {}
    for theirs, ours in names.items():
        plain = _plain(theirs)
        if ours in values or ours in distributions:
            continue
        if _METRICS[ours].kind == "histogram":
            found = _distribution(series, plain)
            if found is not None:
                distributions[ours] = found
        elif plain in series:
            merge = max if ours.endswith("_ratio") else sum
            values[ours] = float(merge(value for _, value in series[plain]))
    return values, distributions


def render(readings: Iterable[Reading]) -> bytes:
    """The Prometheus text 0.0.4 of these readings: one family per metric of ours that any of them has."""
    registry = prom.CollectorRegistry(auto_describe=False)
    registry.register(_Readings(list(readings)))
    return prom.generate_latest(registry)


class _Readings(Collector):
    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def describe(self) -> Iterable[Family]:
        return []

    def collect(self) -> Iterable[Family]:
        for metric in TABLE:
            family = _family(metric, self._readings)
            if family is not None and family.samples:
                yield family


def _family(metric: Metric, readings: Sequence[Reading]) -> Family | None:
    if metric.name == READABLE:
        readable = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for reading in readings:
            readable.add_metric((reading.model, reading.upstream), float(not reading.failed))
        return readable
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for reading in readings:
            found = reading.distributions.get(metric.name)
            if found is not None:
                histogram.add_metric((reading.model, reading.upstream), list(found.buckets), found.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for reading in readings:
        if metric.name in reading.values:
            family.add_metric((reading.model, reading.upstream), reading.values[metric.name])
    return family


def _wanted(text: str, names: Mapping[str, str]) -> str:
    """The lines of `text` that have one of `names`: the parser's time grows with the square of a line's
    labels, and it runs in the supervisor's loop. Raises ValueError for more than any engine has."""
    known = {_plain(name) for name in names}
    known |= {f"{name}{part}" for name in known for part in _PARTS}
    kept = []
    for line in text.split("\n"):
        name = _NAME.match(line)
        if name is None or _plain(name[0]) not in known:
            continue
        if len(line) > LINE_CHARS_MAX:
            raise ValueError(f"a line of the metrics page is longer than {LINE_CHARS_MAX} characters")
        kept.append(line)
    if len(kept) > LINES_MAX:
        raise ValueError(f"the metrics page has more than {LINES_MAX} series of ours")
    return "\n".join([*kept, ""])


def _series(text: str) -> dict[str, list[tuple[Mapping[str, str], float]]]:
    """Every finite sample by its name with underscores: labels and value. Raises ValueError for garbage."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if math.isfinite(sample.value):
                    found.setdefault(_plain(sample.name), []).append((sample.labels, sample.value))
    except (ValueError, IndexError) as error:  # the latter for a label that ends in the middle
        raise ValueError(
            f"the metrics page is not Prometheus text ({error or 'a line is cut off'})"
        ) from None
    return found


def _plain(name: str) -> str:
    return name.replace(":", "_")


def _distribution(
    series: Mapping[str, list[tuple[Mapping[str, str], float]]], name: str
) -> Distribution | None:
    """The histogram `name`, its series added up; None where it is missing or they have different bounds."""
    counts: dict[str, float] = {}
    seen: dict[str, int] = {}
    for labels, value in series.get(f"{name}_bucket", ()):
        bound = labels.get("le", "")
        counts[bound] = counts.get(bound, 0.0) + value
        seen[bound] = seen.get(bound, 0) + 1
    if "+Inf" not in counts or len(set(seen.values())) != 1:
        return None
    buckets = sorted(counts.items(), key=lambda item: float(item[0]))
    return Distribution(tuple(buckets), sum(value for _, value in series.get(f"{name}_sum", ())))


async def _get(target: Target) -> bytes:
    """The page. Raises what `exchange` does."""
    headers = {"Authorization": f"Bearer {resolve_secret(target.api_key_ref)}"} if target.api_key_ref else {}
    status, page = await exchange(target.url, headers, what="the metrics page")
    if status != 200:
        raise ValueError(f"the metrics page was answered {status}")
    return page
