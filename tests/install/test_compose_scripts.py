"""The scripts of a bundle with `orchestration: compose`, from installation to removal; docker is a stand-in.

Real: the scripts, the units' commands, the compose file as the stand-in reads it, the gateway's process and
its state. Not here: containers (see `fake_docker.py`), whose file Docker Compose judges in tests/render.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from install.conftest import Server, write_bundle
from stack import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FAKE = Path(__file__).with_name("fake_docker.py")
DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: plant}}
spec:
  mode: on-prem
  model: {{name: sextant-nano{more}}}
  engine: {{kind: embedded}}
  gateway: {{port: {gateway}}}
  control: {{port: {control}}}
  delivery: {{orchestration: compose}}
"""


@dataclasses.dataclass(frozen=True)
class Site:
    """One server, its stand-in for docker, and its ports."""

    server: Server
    folder: Path
    docker: Path
    gateway: int
    control: int

    def bundle(self, name: str, *, more: str = "") -> Path:
        text = DOCUMENT.format(gateway=self.gateway, control=self.control, more=more)
        bundle = write_bundle(text, self.folder / name)
        # The front would take port 443, which is not a test's to take.
        units = bundle / "units.list"
        units.write_text(
            "".join(f"{line}\n" for line in units.read_text().splitlines() if "front" not in line)
        )
        return bundle

    def builds(self) -> int:
        lines = (self.docker / "calls").read_text().splitlines()
        return sum(line.startswith("build ") for line in lines)

    def ask(self) -> str:
        return self.server.sextant("chat", "What is 58 + 67?")


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Site:
    docker = tmp_path / "docker"
    docker.mkdir()
    program = docker / "docker"
    program.write_text(f'#!/bin/sh\nFAKE_DOCKER={docker} exec {sys.executable} {FAKE} "$@"\n')
    program.chmod(0o755)
    path = f"PATH={docker}:{os.environ['PATH']}"
    within = ("env", path, f"UNIT_RUNNER_PATH={docker}:")
    return Site(dataclasses.replace(server, within=within), tmp_path, docker, *free_ports(2))


def test_the_same_scripts_serve_an_image(site: Site, wheels: Path) -> None:
    server = site.server
    done = server.run(
        site.bundle("first") / "install.sh", *_certificate(site.folder), "--wheels", str(wheels)
    )
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    assert "Admin credential   sxadmin-" in done.stdout, "who installs is shown the keys"
    assert "sxadmin-" not in server.logs() and "sk-" not in server.logs()
    assert "= 125" in site.ask()
    first = server.current.readlink().name

    later = site.bundle("later", more=", aliases: [deepseek-chat]")
    done = server.run(later / "upgrade.sh", "--wheels", str(wheels))
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    assert site.builds() == 1, "the same wheels are the same image"
    second = server.current.readlink().name
    assert second != first and "= 125" in site.ask()

    broken = site.bundle("broken", more=", aliases: [deepseek-reasoner]")
    settings = broken / "settings.sh"
    settings.write_text(settings.read_text() + f"url=http://127.0.0.1:{free_ports(1)[0]}\nready_s=1\n")
    done = server.run(broken / "upgrade.sh", "--wheels", str(wheels))
    assert done.returncode == 1 and "serves again" in done.stderr, done.stdout + done.stderr
    assert server.current.readlink().name == second

    done = server.run(server.current / "bundle/rollback.sh")
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    assert server.current.readlink().name == first and "= 125" in site.ask()

    done = server.run(server.current / "bundle/uninstall.sh", "--purge")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(site.docker.glob("sextant-plant*")), "the image is gone"
    assert not server.state.exists() and not (server.root / "opt/sextant").exists()


def _certificate(folder: Path) -> tuple[str, ...]:
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    files = ("-keyout", str(folder / "server.key"), "-out", str(folder / "server.pem"))
    subprocess.run([*made, *files, "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
    return ("--cert", str(folder / "server.pem"), "--key", str(folder / "server.key"))
