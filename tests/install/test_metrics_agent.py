"""A box's metrics over a line that goes and comes: the rendered unit and configuration, a real Prometheus
over TLS as the centre, and a real deployment that is read.

One more target counts how often it was read and shows that number, so each sample that arrives says which
reading it was: a hole and a sample that came twice are seen, however slow the machine is.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from install.conftest import Server, write_bundle
from stack import free_ports
from stack_under_test import Stack, sextant, stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

UNIT = "sextant-metrics.service"
INTERVAL_S = 0.5
OUTAGE_SCRAPES = 30
"""15 s: the agent keeps what it cannot send in memory for its first 5 s."""
LAST_S = 10.0
"""What a killed agent may take with it: what it read in its last seconds, as the guide says …"""
ON_ITS_WAY = 3
"""… and the one block that it was sending, of a second, when the line was cut."""
PATIENCE_S = 120.0
DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: box}}
spec:
  mode: edge
  model: {{name: sextant-nano}}
  engine: {{kind: embedded}}
  gateway: {{port: {port}}}
  control: {{port: {control}}}
  centre:
    url: http://127.0.0.1:9
    site: plant-7
    credential: file:/etc/sextant/centre-credential
    metrics:
      url: https://127.0.0.1:{receiver}/api/v1/write
      credential: file:/etc/sextant/metrics-credential
      ca_file: ca.pem
"""


def test_an_outage_leaves_no_hole_and_a_kill_a_small_one(server: Server, tmp_path: Path) -> None:
    with stack() as made, _counted() as target, _receiver(tmp_path) as receiver:
        counter = _prepare(server, made, receiver, target)
        server.unit("start", UNIT)
        assert _until(lambda: len(receiver.numbers()) >= 5), server.logs()
        assert {"gateway", "control", "metrics-agent"} <= receiver.jobs()

        receiver.stop()
        _pass(target, OUTAGE_SCRAPES)
        assert counter() > 0, "nothing waits, though there is no line"
        before = target.read
        server.unit("restart", UNIT)
        around = range(before, target.read + 2)
        _pass(target, 5)
        receiver.start()
        seen = _whole(receiver, target)
        assert len(_missing(seen) - set(around)) <= receiver.failed(), server.logs()
        assert _until(lambda: counter() == 0)

        receiver.stop()
        cut = target.read
        _pass(target, OUTAGE_SCRAPES)
        killed = target.read
        _kill(server)
        _pass(target, 5)
        receiver.start()
        missing = {number for number in _missing(_whole(receiver, target)) if number >= cut - ON_ITS_WAY}
        last = set(range(killed - int(LAST_S / INTERVAL_S), killed + 2))
        assert len(missing - last) <= ON_ITS_WAY + receiver.failed(), (cut, killed, sorted(missing))
        print(f"cut at {cut}, killed at {killed}, lost {sorted(missing)}")


class _Counted(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.read += 1  # type: ignore[attr-defined]
        body = f"# TYPE times_read counter\ntimes_read {self.server.read}\n".encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class _Target(ThreadingHTTPServer):
    read = 0
    daemon_threads = True


@contextmanager
def _counted() -> Iterator[_Target]:
    target = _Target(("127.0.0.1", 0), _Counted)
    thread = threading.Thread(target=target.serve_forever)
    thread.start()
    try:
        yield target
    finally:
        target.shutdown()
        thread.join()
        target.server_close()


class _Receiver:
    """Prometheus with TLS, which takes what is written to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None
        subject = ("-subj", "/CN=centre", "-addext", "subjectAltName=IP:127.0.0.1")
        made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        files = ("-keyout", folder / "centre.key", "-out", folder / "centre.pem", "-days", "2")
        subprocess.run([*made, *files, *subject], check=True, capture_output=True)
        tls = {"cert_file": "centre.pem", "key_file": "centre.key", "min_version": "TLS13"}
        (folder / "web.yml").write_text(yaml.safe_dump({"tls_server_config": tls}))
        late = {"tsdb": {"out_of_order_time_window": "1h"}}
        (folder / "centre.yml").write_text(yaml.safe_dump({"storage": late}))

    def start(self) -> None:
        with (self.folder / "centre.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.folder}/centre.yml",
                    f"--web.config.file={self.folder}/web.yml",
                    f"--storage.tsdb.path={self.folder}/tsdb",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--web.enable-remote-write-receiver",
                ],
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def _query(self, words: str) -> list[dict[str, object]]:
        context = ssl.create_default_context(cafile=self.folder / "centre.pem")
        url = f"https://127.0.0.1:{self.port}/api/v1/query?query={urllib.parse.quote(words)}"
        try:
            with urllib.request.urlopen(url, context=context, timeout=10) as answer:
                return list(json.load(answer)["data"]["result"])
        except OSError:
            return []  # it is starting

    def numbers(self) -> list[int]:
        """Which readings of the target are here, in the order of their times."""
        found = self._query('times_read{site="plant-7"}[1h]')
        assert len(found) <= 1
        return [int(value) for _, value in found[0]["values"]] if found else []  # type: ignore[attr-defined]

    def failed(self) -> int:
        """How often the agent itself says that it could not read the target in time."""
        found = self._query('up{job="counted"}[1h]')
        values = [value for one in found for _, value in one["values"]]  # type: ignore[attr-defined]
        return values.count("0")

    def jobs(self) -> set[str]:
        return {one["metric"]["job"] for one in self._query('up{site="plant-7"} == 1')}  # type: ignore[index]


@contextmanager
def _receiver(folder: Path) -> Iterator[_Receiver]:
    receiver = _Receiver(folder)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()


def _prepare(server: Server, made: Stack, receiver: _Receiver, target: _Target) -> Callable[[], int]:
    """Puts the rendered unit and configuration where an installation has them, read twice a second, and the
    target beside the box's own. Returns how many bytes wait, as the agent says."""
    text = DOCUMENT.format(port=made.port, control=made.control_port, receiver=receiver.port)
    bundle = write_bundle(text, receiver.folder / "box")
    etc, base = server.root / "etc/sextant", server.root / "opt/sextant/current/bundle/metrics"
    for folder in (etc / "tls", base, server.root / "etc/systemd/system"):
        folder.mkdir(parents=True)
    token = json.loads(
        sextant("token", "create", "m", "--role", "auditor", "--json", "--state", str(made.root)).stdout
    )
    (etc / "metrics-token").write_text(token["token"])
    (etc / "metrics-credential").write_text("of-the-box\n")
    (etc / "tls/metrics.pem").write_bytes((receiver.folder / "centre.pem").read_bytes())
    (own,) = free_ports(1)
    config = yaml.safe_load((bundle / "metrics/prometheus.yml").read_text().replace(":8429", f":{own}"))
    config["global"] |= {"scrape_interval": f"{int(INTERVAL_S * 1000)}ms", "scrape_timeout": "500ms"}
    here = {"targets": [f"127.0.0.1:{target.server_port}"]}
    config["scrape_configs"].append({"job_name": "counted", "static_configs": [here]})
    (base / "prometheus.yml").write_text(yaml.safe_dump(config))
    unit = (bundle / "systemd" / UNIT).read_text().replace(":8429", f":{own}")
    moved = re.sub(r"(?<![\w/])/(opt/sextant|etc/sextant|var/lib/sextant)", rf"{server.root}/\1", unit)
    (server.root / "etc/systemd/system" / UNIT).write_text(moved)

    def waiting() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{own}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(
            int(n) for n in re.findall(r"(?m)^vmagent_remotewrite_pending_data_bytes\S* .*?(\d+)$", text)
        )

    return waiting


def _kill(server: Server) -> None:
    """The agent alone: what keeps it starts it again."""
    keeper = int((server.root / f"run/unit-runner/{UNIT}.pid").read_text())
    (child,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)


def _pass(target: _Target, scrapes: int) -> None:
    """Waits until the target was read so many times more."""
    end = target.read + scrapes
    assert _until(lambda: target.read >= end), f"read {target.read} times, not {end}"


def _whole(receiver: _Receiver, target: _Target) -> list[int]:
    """What the centre has once it has all that was read until now."""
    now = target.read
    assert _until(lambda: max(receiver.numbers(), default=0) > now)
    found = receiver.numbers()
    assert len(found) == len(set(found)), "a reading is there twice"
    assert found == sorted(found)
    return found


def _missing(numbers: list[int]) -> set[int]:
    return set(range(1, max(numbers) + 1)) - set(numbers)


def _until(true: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)
    return True
