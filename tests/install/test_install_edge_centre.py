"""The edge bundle installed beside a real centre: cut off, used, ill-treated, reconnected, reconciled."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_and_centre import SITE, Host, ill_treated, line_to, reconciled, settled, use
from install.conftest import Server
from install.test_install_edge import Maker
from sextant.render.hosts.metrics_agent import PORT
from stack import free_ports
from stack_under_test import Stack, sextant, stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CENTRE = """
  centre:
    url: http://127.0.0.1:{port}
    site: plant-7
    credential: file:{credential}
    metrics: {{url: "http://127.0.0.1:{nobody}/api/v1/write"}}
"""


def test_an_installed_box_and_its_centre(server: Server, wheels: Path, tmp_path: Path) -> None:
    maker = Maker(tmp_path, wheels)
    with stack() as made, line_to(made.control_port) as line:
        centre = _centre(made)
        centre.run("tenant", "create", "plants", "--billing", "postpaid", "--plan", "standard-cny")
        site = json.loads(centre.run("site", "create", SITE, "--tenant", "default=plants", "--json"))
        credential = tmp_path / "credential"
        credential.write_text(site["credential"])
        credential.chmod(0o600)
        (nobody,) = free_ports(1)
        sections = CENTRE.format(port=line.port, credential=credential, nobody=nobody)
        kit = maker.kit("first", sections=sections)
        assert "See what waits for the centre" in (kit / "README.md").read_text()
        done = server.run(kit / "install-offline.sh", "--trust", str(tmp_path / "release.pub"))
        assert done.returncode == 0, done.stdout + done.stderr + server.logs()
        box = Host(server.state, maker.ports[0], _installed(server))
        assert _read_by_the_agent(server) == {"gateway": "up", "control": "up", "metrics-agent": "up"}
        settled(box)  # what the measurement at install has used
        box.run("tenant", "set", "default", "--billing", "postpaid", "--plan", "standard-cny")
        ill_treated(box, centre, line, "nano")
        reconciled(box, centre, "plants")

        line.cut()
        use(box, 3, "nano")
        second = maker.kit("second", sections=sections)
        done = server.run(second / "upgrade.sh")
        assert done.returncode == 0, done.stdout + done.stderr + server.logs()
        assert _read_by_the_agent(server) == {"gateway": "up", "control": "up", "metrics-agent": "up"}
        line.mend()
        box.kill("forwarder")
        settled(box)
        reconciled(box, centre, "plants")
        assert box.all("SELECT sum(cost_nano) FROM usage")[0][0] > 0
        done = server.run(kit / "uninstall.sh", "--purge")
        assert done.returncode == 0, done.stdout + done.stderr
        assert not list(server.root.glob("var/lib/sextant*")) and not list(server.root.glob("etc/sextant"))


def _read_by_the_agent(server: Server) -> dict[str, str]:
    """Which parts of the box the metrics agent reads, and whether it can, once it has read all."""
    deadline_s = time.monotonic() + 60
    found: dict[str, str] = {}
    while time.monotonic() < deadline_s and (not found or set(found.values()) != {"up"}):
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/v1/targets", timeout=10) as answer:
                targets = json.load(answer)["data"]["activeTargets"]
            found = {one["labels"]["job"]: one["health"] for one in targets}
    assert found, server.logs()
    return found


def _installed(server: Server) -> Callable[..., str]:
    def run(*words: str) -> str:
        done = server.run(server.current / "venv/bin/sextant", *words, "--state", str(server.state))
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.stdout

    return run


def _centre(made: Stack) -> Host:
    def run(*words: str) -> str:
        done = sextant(*words, "--state", str(made.root))
        assert done.returncode == 0, done.stderr
        return done.stdout

    return Host(made.root, made.port, run)
