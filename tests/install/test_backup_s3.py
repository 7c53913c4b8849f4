"""Backups of a PostgreSQL store into S3: made by the unit, put back after database and server are gone.

Real: PostgreSQL with its pg_dump, restic, the unit and the script of the bundle, `sextant up`. S3 is moto's
server on loopback, which takes any credentials: that wrong ones are refused is not shown here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from install import namespaces
from install.conftest import Server, write_bundle
from install.machines import as_installed
from servers import Postgres, free_port, program
from stack import free_ports
from stack_under_test import listening, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

UNIT = "sextant-backup.service"
DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: plant}}
spec:
  mode: on-prem
  model: {{name: sextant-nano}}
  engine: {{kind: embedded}}
  gateway: {{port: {gateway}}}
  control: {{port: {control}}}
  store: {{url: "{store}?sslmode=disable", password: env:STORE_PASSWORD}}
  continuity: {{backup: {{repository: "s3:http://127.0.0.1:{s3}/backups/plant"}}}}
"""
STALLING = """\
#!/bin/sh
# restic, before whose copying S3 stands still.
[ "$1" != backup ] || kill -STOP {pid}
exec {restic} "$@"
"""


class S3:
    """moto's server; what it holds is gone when it ends."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        until(lambda: listening(self.port), "S3 listens", 60)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(20)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    made = S3(tmp_path / "s3.log")
    yield made
    made.stop()


@pytest.fixture
def plant(s3: S3, database: str, tmp_path: Path) -> Iterator[Server]:
    gateway, control = free_ports(2)
    store = database.replace(f":{database.split(':')[2].partition('@')[0]}@", "@")
    text = DOCUMENT.format(gateway=gateway, control=control, store=store, s3=s3.port)
    server = as_installed(write_bundle(text, tmp_path / "plant"))
    etc = server.root / "etc/sextant"
    (etc / "backup-password").write_text("of the tests")
    (etc / "backup.env").write_text("AWS_ACCESS_KEY_ID=tests\nAWS_SECRET_ACCESS_KEY=tests\n")
    _started(server)
    yield server
    server.unit("stop", "sextant.service")
    print(server.logs())
    shutil.rmtree(server.root)


def _started(server: Server) -> None:
    server.unit("start", "sextant.service")
    until(lambda: "serves sextant-nano" in server.logs(), "it serves", 60)


def test_database_and_server_are_lost(plant: Server, postgres: Postgres, database: str) -> None:
    for question in ("What is 1 + 2?", "What is 3 + 4?"):
        plant.sextant("chat", question)
    began = time.monotonic()
    assert "Backed up accounts and ledger to s3:" in _made(plant, succeeds=True)
    made_s = time.monotonic() - began
    known = _rows(postgres, database)
    assert len(known[0]) == 2
    plant.sextant("chat", "What is 5 + 6?")

    plant.unit("stop", "sextant.service")
    shutil.rmtree(plant.state)
    plant.state.mkdir()
    postgres.drop_database(database)
    postgres.sql(f"CREATE DATABASE {database.rpartition('/')[2]}")
    began = time.monotonic()
    done = plant.run(plant.current / "bundle/backup.sh", "restore")
    restored_s = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr + plant.logs()
    usage, keys = _rows(postgres, database)
    assert known[0] < usage and len(usage) == 3, "each row, and the question by which it was tried"
    assert known[1] <= keys
    print(f"backed up in {made_s:.1f} s, answers again {restored_s:.1f} s after the restore began")


def test_what_goes_wrong_is_said(plant: Server, s3: S3) -> None:
    _made(plant, succeeds=True)
    password = plant.root / "etc/sextant/backup-password"
    password.write_text("another one")
    assert "backup-password does not open s3:" in _made(plant, succeeds=False)
    password.write_text("of the tests")

    _stopped_on_the_way(plant, s3)
    assert "Backed up" in _made(plant, succeeds=True), "a lock of one that is gone is in nobody's way"

    s3.stop()
    said = _made(plant, succeeds=False)
    assert "connection refused" in said and "can be neither opened nor made" in said
    assert not (plant.state / "backups/outgoing").exists()


@pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "there are namespaces")
def test_a_full_disk_is_said(plant: Server) -> None:
    backups = plant.state / "backups"
    backups.mkdir(exist_ok=True)
    small = f'mount -t tmpfs -o size=32k none {backups} && exec "$@"'
    full = Server(plant.root, plant.systemctl, ("unshare", "--mount", "sh", "-c", small, "sh"))
    said = _made(full, succeeds=False)
    assert "No space left on device" in said, said
    assert "Backed up" in _made(plant, succeeds=True)


def _stopped_on_the_way(plant: Server, s3: S3) -> None:
    """The service is told to stop while it copies."""
    programs = plant.root / "programs"
    programs.mkdir()
    restic = program("restic", "restic", "/usr/bin")
    (programs / "restic").write_text(STALLING.format(pid=s3.process.pid, restic=restic))
    (programs / "restic").chmod(0o755)
    environment = {**plant.environment, "UNIT_RUNNER_PATH": f"{programs}:"}
    running = subprocess.Popen([plant.systemctl, "start", UNIT], env=environment)
    until(lambda: f"{plant.state}/backups/outgoing" in _commands(restic), "it copies", 60)
    assert list((plant.state / "backups/outgoing").rglob("manifest.json"))
    for pid in _pids(f"{plant.root}/opt/sextant/current/bundle/backup.sh"):
        os.killpg(os.getpgid(pid), signal.SIGTERM)
    assert running.wait(60) != 0
    s3.process.send_signal(signal.SIGCONT)
    assert not (plant.state / "backups/outgoing").exists(), "no copy is left on this disk"


def _made(server: Server, *, succeeds: bool) -> str:
    done = server.run(server.systemctl, "start", UNIT)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == succeeds, said
    return said


def _pids(words: str) -> list[int]:
    return [int(line.split()[0]) for line in _processes() if words in line]


def _commands(words: str) -> str:
    return "\n".join(line for line in _processes() if words in line)


def _processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(f"{path.parent.name} {path.read_bytes().replace(bytes(1), b' ').decode()}")
        except (OSError, UnicodeDecodeError):
            continue  # it is gone
    return found


def _rows(postgres: Postgres, database: str) -> tuple[set[str], set[str]]:
    """Usage and keys, whole."""
    name = database.rpartition("/")[2]
    return (
        set(postgres.sql("SELECT usage::text FROM ledger.usage", name).splitlines()),
        set(postgres.sql("SELECT id, sha256 FROM api_key", name).splitlines()),
    )
