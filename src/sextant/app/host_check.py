"""What the scripts of a rendered bundle ask of the deployment on their server: is it ready, how fast is it.

`python -m sextant.app.host_check ready --url URL --within S` ends with 0 once `/ready` says so. `… latency`
sends short requests one after another to a model that runs here and holds their 99th percentile against two
targets; it reports and never fails for being slow, but fails where somebody else answered. Neighbours:
`render/hosts/lifecycle.py`, which calls this.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from sextant.app.pages import LOOPBACK
from sextant.app.state import StateDir, write_private
from sextant.base.errors import Misconfigured, SextantError, UpstreamError
from sextant.spec.snapshot import RouteTable

CONTROL_MS = 35.0
"""End-to-end target of control loops, 99th percentile."""
LIMIT_MS = 50.0
"""End-to-end target of everything else at the edge, 99th percentile."""
REQUESTS = 200
WARM_UP = 10
OUTPUT_TOKENS = 4
"""A short decision: what a control loop asks for."""
PROMPT = "Which is larger, 7 or 9?"
FALLBACK = "x-sextant-fallback"
"""Header of an answer that another model gave: its name."""
POLL_S = 0.2
TIMEOUT_S = 10.0


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on this machine. Milliseconds from request to the whole answer."""

    model: str
    requests: int
    output_tokens: int
    p50_ms: float
    p99_ms: float
    control_ms: float
    limit_ms: float
    meets_control: bool
    meets_limit: bool


def is_ready(url: str, *, within_s: float, path: str = "/ready") -> bool:
    """Whether `path` there answers 200 before `within_s` seconds have passed."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            if _get(url, path) == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass  # nobody listens yet
        if time.monotonic() + POLL_S > deadline_s:
            return False
        time.sleep(POLL_S)


def own_model(table: RouteTable) -> str:
    """The first model of `table` whose engine runs on this machine and that is not a way to the centre.
    Raises Misconfigured where there is none."""
    ways_out = {served.fallback.model for served in table.models if served.fallback is not None}
    for served in table.models:
        hosts = [urlsplit(upstream.base_url).hostname or "" for upstream in served.upstreams]
        if served.id not in ways_out and hosts and all(host in LOOPBACK for host in hosts):
            return served.id
    names = ", ".join(served.id for served in table.models) or "none"
    raise Misconfigured(
        f"no model of this box runs on it (served: {names}), so its speed cannot be measured; expected one "
        f"whose engine is here: look at `sextant status`"
    )


def measure(url: str, key: str, model: str, *, requests: int = REQUESTS) -> Latency:
    """Sends `requests` short chats to `model` one after another. Raises UpstreamError for an answer other
    than 200, and for one that somebody else gave instead of the model's own engine."""
    connection = _connection(url)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        asked = {"model": model, "max_tokens": OUTPUT_TOKENS, "temperature": 0}
        body = json.dumps({**asked, "messages": [{"role": "user", "content": PROMPT}]})
        took_ms = []
        for number in range(WARM_UP + requests):
            began_s = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", body, headers)
            _own_answer(connection, model)
            if number >= WARM_UP:
                took_ms.append((time.perf_counter() - began_s) * 1e3)
    except (OSError, http.client.HTTPException) as error:
        raise UpstreamError(f"{url} gave no answer that could be timed: {error}") from None
    finally:
        connection.close()
    p99_ms = percentile(took_ms, 0.99)
    return Latency(
        model=model,
        requests=requests,
        output_tokens=OUTPUT_TOKENS,
        p50_ms=round(percentile(took_ms, 0.5), 3),
        p99_ms=round(p99_ms, 3),
        control_ms=CONTROL_MS,
        limit_ms=LIMIT_MS,
        meets_control=p99_ms <= CONTROL_MS,
        meets_limit=p99_ms <= LIMIT_MS,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry. Returns the exit status: 1 when it is not ready or does not answer."""
    asked = _parser().parse_args(arguments)
    if asked.verb == "ready":
        return 0 if is_ready(asked.url, within_s=asked.within, path=asked.path) else 1
    try:
        state = StateDir(Path(asked.state))
        found = measure(asked.url, _key(state), own_model(_routes(state)), requests=asked.requests)
    except SextantError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    if asked.report:
        write_private(Path(asked.report), msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    print(
        f"{found.model}: {found.requests} requests of {found.output_tokens} tokens, "
        f"p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms; "
        f"target {CONTROL_MS:g} ms {_met(found.meets_control)}, {LIMIT_MS:g} ms {_met(found.meets_limit)}"
    )
    return 0


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sextant.app.host_check")
    verbs = parser.add_subparsers(dest="verb", required=True)
    ready = verbs.add_parser("ready")
    ready.add_argument("--url", required=True)
    ready.add_argument("--within", type=float, default=0.0, help="seconds")
    ready.add_argument("--path", default="/ready", help="/health: alive is enough")
    latency = verbs.add_parser("latency")
    latency.add_argument("--url", required=True)
    latency.add_argument("--state", required=True)
    latency.add_argument("--requests", type=int, default=REQUESTS)
    latency.add_argument("--report", default="")
    return parser


def _key(state: StateDir) -> str:
    try:
        return state.cli_key.read_text().strip()
    except OSError as error:
        raise Misconfigured(
            f"the key {state.cli_key} cannot be read: {os.strerror(error.errno or 0)}"
        ) from None


def _routes(state: StateDir) -> RouteTable:
    try:
        return msgspec.json.decode(state.routes_file.read_bytes(), type=RouteTable)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(
            f"the route table {state.routes_file} cannot be read: {error}; is sextant.service running?"
        ) from None


def _connection(url: str) -> http.client.HTTPConnection:
    """To a process of ours on this machine: its certificate need not be one that this machine trusts."""
    parts = urlsplit(url)
    if parts.scheme != "https":
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=context)


def _get(url: str, path: str) -> int:
    connection = _connection(url)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _own_answer(connection: http.client.HTTPConnection, model: str) -> None:
    """Reads an answer whole, which the engine of `model` must have given."""
    answer = connection.getresponse()
    answer.read()
    instead = answer.getheader(FALLBACK)
    if instead is not None:
        raise UpstreamError(
            f"{instead} answered instead of {model}, whose engine on this box cannot: nothing was measured; "
            f"look at `sextant status`"
        )
    if answer.status != 200:
        raise http.client.HTTPException(f"status {answer.status}")


if __name__ == "__main__":
    sys.exit(main())
