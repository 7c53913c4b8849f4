"""The watchdog of a box restarts what does not answer, and nothing else. systemctl is a recorder here."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.render.orders import EMBEDDED, order

from sextant.render import render
from stack import free_ports

pytestmark = pytest.mark.slow


@pytest.fixture
def alive() -> Iterator[int]:
    """The port of something that says it is alive."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


class Box:
    """The script in a scratch installation, and what it told systemctl."""

    def __init__(self, root: Path) -> None:
        self.root, self.bundle = root, root / "release/bundle"
        self.bundle.mkdir(parents=True)
        for file in render(order("edge", **EMBEDDED)).files:
            if "/" not in file.path:
                (self.bundle / file.path).write_bytes(file.content)
                (self.bundle / file.path).chmod(0o755)
        script = self.bundle / "watchdog.sh"
        script.write_text(
            script.read_text().replace("within_s=5", "within_s=0").replace("grace_checks=8", "grace_checks=0")
        )
        (root / "release/venv").symlink_to(sys.prefix)
        self.systemctl = root / "systemctl"
        self.systemctl.write_text(f'#!/bin/sh\necho "$*" >>{root}/told\n[ "$1" != is-active ] || exit 0\n')
        self.systemctl.chmod(0o755)

    def check(self, port: int) -> list[str]:
        """One run of the timer; what was restarted."""
        settings = self.bundle / "settings.sh"
        settings.write_text(settings.read_text() + f"\nurl=http://127.0.0.1:{port}\n")
        (self.root / "told").unlink(missing_ok=True)
        environment = {**os.environ, "SEXTANT_ROOT": str(self.root), "SEXTANT_SYSTEMCTL": str(self.systemctl)}
        subprocess.run([self.bundle / "watchdog.sh"], env=environment, check=True, timeout=60)
        told = self.root / "told"
        return [line for line in told.read_text().splitlines() if "restart" in line] if told.exists() else []


def test_three_misses_in_a_row_restart_it_once(tmp_path: Path, alive: int) -> None:
    box, (dead,) = Box(tmp_path), free_ports(1)
    assert box.check(alive) == []
    assert box.check(dead) == []
    assert box.check(dead) == []
    assert box.check(alive) == [], "an answer starts the count again"
    assert [box.check(dead) for _ in range(3)] == [[], [], ["restart sextant.service"]]
    assert box.check(dead) == [], "and then it may start in peace"


def test_an_upgrade_is_left_alone(tmp_path: Path) -> None:
    box, (dead,) = Box(tmp_path), free_ports(1)
    (tmp_path / "opt/sextant/lock").mkdir(parents=True)
    assert [box.check(dead) for _ in range(4)] == [[]] * 4
