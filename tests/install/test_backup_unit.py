"""Backups of a server: made by the unit, kept by restic in a folder, put back after everything is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from install.conftest import Server, write_bundle
from stack import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

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
  continuity: {{backup: {{repository: /srv/backups/plant, schedule: "30 */6 * * *", keep_days: 14}}}}
"""


def test_what_was_backed_up_is_there_after_all_was_lost(server: Server, wheels: Path, tmp_path: Path) -> None:
    gateway, control = free_ports(2)
    _installed(server, wheels, _bundle(tmp_path, gateway, control))
    for question in ("What is 1 + 2?", "What is 3 + 4?"):
        server.sextant("chat", question)
    key = server.state / "secrets/local-cli"
    known = _rows(server), _keys(server)
    _backed_up(server)
    assert list((server.root / "srv/backups/plant").iterdir()), "in the repository"
    assert not list((server.state / "backups").glob("outgoing*")), "no copy is left on this disk"
    old_key = key.read_text()
    server.sextant("chat", "What is 5 + 6?")

    server.unit("stop", "sextant.service")
    shutil.rmtree(server.state)
    server.state.mkdir()
    done = server.run(server.current / "bundle/backup.sh", "restore")
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    assert "There is no state here" in done.stdout
    rows, keys = _rows(server), _keys(server)
    assert known[0] < rows and len(known[0]) == 3, "each row as it was"
    assert len(rows) == len(known[0]) + 1, "and the question by which the restored one was tried"
    assert known[1] <= keys, "the keys that callers have are good again"
    key.write_text(old_key)
    assert "= 15" in server.sextant("chat", "What is 7 + 8?")

    _faults_are_said(server)
    done = server.run(server.current / "bundle/uninstall.sh", "--purge")
    assert "backup-password, without which" in done.stdout
    assert [path.name for path in (server.root / "etc/sextant").iterdir()] == ["backup-password"]


def _faults_are_said(server: Server) -> None:
    password = server.root / "etc/sextant/backup-password"
    right = password.read_text()
    password.write_text("another one")
    assert "does not open /srv/backups/plant" in _failed(server).replace(str(server.root), "")
    before = _rows(server)
    done = server.run(server.current / "bundle/backup.sh", "restore", "latest")
    assert done.returncode == 1 and "cannot be read" in done.stderr
    password.write_text(right)
    done = server.run(server.current / "bundle/backup.sh", "restore", "0badcafe")
    assert done.returncode == 1 and "0badcafe is not in" in done.stderr
    assert _rows(server) == before, "nothing was touched"
    _a_copy_that_is_none(server, right.strip())
    done = server.run(server.current / "bundle/backup.sh", "restore", "latest")
    assert done.returncode == 1 and "runs with the data that it had" in done.stderr, done.stdout + done.stderr
    assert not (server.state / "backups/incoming").exists()
    assert "= 19" in server.sextant("chat", "What is 9 + 10?")
    for pack in (server.root / "srv/backups/plant/data").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            pack.write_bytes(pack.read_bytes()[:-7])
    assert "Backed up" not in _failed(server), "a damaged repository is found by the next run"


def _a_copy_that_is_none(server: Server, password: str) -> None:
    """Into the repository, as the newest."""
    outgoing = server.state / "backups/outgoing"
    outgoing.mkdir(parents=True)
    (outgoing / "manifest.json").write_text("{}")
    environment = {**os.environ, "RESTIC_REPOSITORY": str(server.root / "srv/backups/plant")}
    subprocess.run(
        ["restic", "backup", "--quiet", "--no-cache", "--host", "plant", "--tag", "sextant", str(outgoing)],
        env={**environment, "RESTIC_PASSWORD": password},
        check=True,
    )
    shutil.rmtree(outgoing)


def _backed_up(server: Server) -> None:
    done = server.run(server.systemctl, "start", UNIT)
    assert done.returncode == 0 and "Backed up accounts and ledger" in done.stdout, done.stdout + done.stderr
    done = server.run(server.current / "bundle/backup.sh", "list")
    assert done.returncode == 0 and "1 snapshots" in done.stdout, done.stdout + done.stderr


def _failed(server: Server) -> str:
    done = server.run(server.systemctl, "start", UNIT)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout + done.stderr


def _bundle(folder: Path, gateway: int, control: int) -> Path:
    return write_bundle(DOCUMENT.format(gateway=gateway, control=control), folder / "plant")


def _installed(server: Server, wheels: Path, bundle: Path) -> None:
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    files = (bundle.with_name("server.pem"), bundle.with_name("server.key"))
    out = ("-out", str(files[0]), "-keyout", str(files[1]), "-days", "2", "-subj", "/CN=localhost")
    subprocess.run([*made, *out], check=True, capture_output=True)
    # The front would take port 443, which is not a test's to take; nothing here goes through it.
    units = bundle / "units.list"
    units.write_text("".join(f"{line}\n" for line in units.read_text().splitlines() if "front" not in line))
    given = ("--cert", str(files[0]), "--key", str(files[1]), "--wheels", str(wheels))
    done = server.run(bundle / "install.sh", *given)
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    assert "keep a copy of it on another machine" in done.stdout
    for name in ("backup-password", "backup.env"):
        assert (server.root / "etc/sextant" / name).stat().st_mode & 0o077 == 0


def _rows(server: Server) -> set[tuple[object, ...]]:
    return _read(server.state / "ledger.db", "SELECT * FROM usage")


def _keys(server: Server) -> set[tuple[object, ...]]:
    return _read(server.state / "accounts.db", "SELECT id, sha256 FROM api_key")


def _read(database: Path, query: str) -> set[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        return set(opened.execute(query).fetchall())
