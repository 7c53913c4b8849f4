"""The on-prem bundle of this machine's processors, from installation to removal, into a scratch root.

Real: the scripts, the wheels, the processes with their units' environment and limits, nginx with TLS 1.3, the
load. Not here: systemd as process 1, users, namespaces, cgroups (see `unit_runner.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sqlite3
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest

from answers_under_load import Client, load
from install.conftest import Server, write_bundle
from sextant import __version__
from stack import free_ports
from upgrade.later_sextant import VERSION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CLIENTS = 2
DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: plant}}
spec:
  mode: on-prem
  model: {{name: sextant-nano{source}}}
  engine: {{kind: embedded}}
  gateway: {{host: 0.0.0.0, port: {front}, tls: {{cert_file: server.pem, key_file: server.key}}}}
  control: {{port: {control}}}
"""


@dataclasses.dataclass(frozen=True)
class Site:
    """One server, its certificate and its ports."""

    server: Server
    folder: Path
    front: int
    control: int

    @property
    def port(self) -> int:
        """Of the gateway behind the front."""
        settings = (self.server.current / "bundle/settings.sh").read_text()
        return int(settings.partition("url=http://127.0.0.1:")[2].split()[0])

    @property
    def key(self) -> str:
        return (self.server.state / "secrets/local-cli").read_text().strip()

    def bundle(self, name: str, *, source: str = "", version: str = "") -> Path:
        text = DOCUMENT.format(front=self.front, control=self.control, source=source)
        return write_bundle(text, self.folder / name, version=version)

    def release(self) -> str:
        return self.server.current.readlink().name

    def ask_through_front(self) -> str:
        """One answer over TLS, as any caller gets it."""
        context = ssl.create_default_context(cafile=str(self.folder / "server.pem"))
        question = {"model": "sextant-nano", "messages": [{"role": "user", "content": "What is 58 + 67?"}]}
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.front}/v1/chat/completions",
            json.dumps(question).encode(),
            {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return str(json.loads(answer.read())["choices"][0]["message"]["content"])


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Site:
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    files = ("-keyout", str(tmp_path / "server.key"), "-out", str(tmp_path / "server.pem"))
    subprocess.run([*made, *files, "-days", "2", *subject], check=True, capture_output=True)
    return Site(server, tmp_path, *free_ports(2))


def test_from_installation_to_removal(site: Site, wheels: Path, later_wheels: Path) -> None:
    _installed(site, wheels)
    first = site.release()

    _migrates_and_fails(site, later_wheels)
    assert site.release() == first, "it went back by itself"
    assert "= 125" in site.ask_through_front()

    with load(site, [Client(seed, output_tokens_max=12) for seed in range(CLIENTS)]) as seen:
        later = site.bundle("later", version=VERSION)
        done = site.server.run(later / "upgrade.sh", "--wheels", str(later_wheels))
        assert done.returncode == 0, done.stdout + done.stderr + site.server.logs()
        assert site.release().startswith(VERSION)
        _does_not_start(site, later_wheels)
        assert site.release().startswith(VERSION), "it went back by itself"
    assert "= 125" in site.ask_through_front()
    assert seen.broken == 0, "requests under way were answered to their end"
    rows = _rows(site.server.state / "ledger.db")
    assert seen.completed.items() <= rows.items() and len(seen.completed) > CLIENTS

    _rolled_back(site, first, done.stdout)
    _removed(site)


def _rows(ledger: Path) -> dict[str, tuple[int, int]]:
    """Tokens in and out by request id; the schema is the later version's, so this one's reader refuses it."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as opened:
        found = opened.execute("SELECT request_id, input_tokens, output_tokens FROM usage").fetchall()
    return {name: (read, made) for name, read, made in found}


def _installed(site: Site, wheels: Path) -> None:
    bundle = site.bundle("first")
    certificate = ("--cert", str(site.folder / "server.pem"), "--key", str(site.folder / "server.key"))
    done = site.server.run(bundle / "install.sh", "--wheels", str(wheels))
    assert "a TLS certificate is needed" in done.stderr
    done = site.server.run(bundle / "install.sh", *certificate, "--wheels", str(wheels))
    assert done.returncode == 0, done.stdout + done.stderr + site.server.logs()
    assert "Admin credential   sxadmin-" in done.stdout, "who installs is shown the keys"
    assert "sxadmin-" not in site.server.logs() and "sk-" not in site.server.logs(), "the journal is not"
    assert "= 125" in site.ask_through_front()
    old = ("openssl", "s_client", "-connect", f"127.0.0.1:{site.front}", "-tls1_2")
    refused = subprocess.run(old, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert "alert protocol version" in refused.stderr, "nothing older than TLS 1.3"
    assert "use ./upgrade.sh" in site.server.run(bundle / "install.sh", *certificate).stderr


def _migrates_and_fails(site: Site, later_wheels: Path) -> None:
    """A later version that migrates the databases and then is not where the gate asks for it."""
    broken = site.bundle("broken", version=VERSION)
    settings = broken / "settings.sh"
    settings.write_text(settings.read_text() + f"url=http://127.0.0.1:{free_ports(1)[0]}\nready_s=1\n")
    done = site.server.run(broken / "upgrade.sh", "--wheels", str(later_wheels))
    assert done.returncode == 1
    assert "The databases were migrated; putting back" in done.stderr, done.stdout + done.stderr
    assert f"{site.release()} serves again" in done.stderr
    assert f"Sextant {__version__} is ready" in site.server.sextant("status")


def _does_not_start(site: Site, later_wheels: Path) -> None:
    """A document whose model is no model: the process ends at each start."""
    broken = site.bundle("worse", source=", source: junk.gguf", version=VERSION)
    settings = broken / "settings.sh"
    settings.write_text(settings.read_text().replace("-later", "-worse"))
    (broken / "models").mkdir()
    (broken / "models/junk.gguf").write_bytes(b"GGUF" + bytes(64))
    done = site.server.run(broken / "upgrade.sh", "--wheels", str(later_wheels))
    assert done.returncode == 1
    assert re.search(r"ended \d+ times", done.stderr), done.stdout + done.stderr
    assert "serves again" in done.stderr


def _rolled_back(site: Site, first: str, said: str) -> None:
    rollback = site.server.current / "bundle/rollback.sh"
    done = site.server.run(rollback)
    assert done.returncode == 1 and "name a backup" in done.stderr, done.stdout + done.stderr
    assert "= 125" in site.ask_through_front(), "the later one serves on"
    backup = said.rpartition("backup: ")[2].partition(")")[0]
    done = site.server.run(rollback, "--restore", backup)
    assert done.returncode == 0, done.stdout + done.stderr + site.server.logs()
    assert site.release() == first
    assert "= 125" in site.ask_through_front()


def _removed(site: Site) -> None:
    processes = [int(path.read_text()) for path in site.server.root.glob("run/unit-runner/*.service.pid")]
    assert len(processes) == 2
    done = site.server.run(site.folder / "first/uninstall.sh", "--purge")
    assert done.returncode == 0, done.stderr
    kept = ("unit-runner", "systemctl")
    left = [
        path
        for path in site.server.root.rglob("*")
        if not path.is_dir() and not any(part in kept for part in path.parts)
    ]
    assert left == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
    for port in (site.front, site.control):
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
