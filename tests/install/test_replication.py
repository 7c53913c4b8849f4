"""The books of two sites, run: PostgreSQL by the rendered files on two machines, a link cut, a primary lost.

Real: both PostgreSQL with TLS, the rendered settings and scripts, the ledger that writes through both names,
and Prometheus with the rendered alerts. The machines are network namespaces. The values of postgres_exporter
are read by queries like its own and shown by a few lines here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
import yaml
from tests.render.orders import order
from tests.render.test_kubernetes_hybrid import HYBRID

from install import namespaces
from install.namespaces import Machine, Network
from servers import NOBODY, PASSWORD, Postgres, postgres_program, unprivileged
from sextant.render import render
from stack import free_ports
from stack_under_test import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "there are namespaces"),
]

HOSTS = {"hall": "10.78.0.1", "cloud": "10.78.0.2"}
PORT = 5432
RPO_S = 6
WRITE = """
import json, sys, time
from ledger_under_test import FlatRates, row
from sextant.base.errors import LedgerUnavailable
from sextant.store.ledger_postgres import LedgerDatabase
ledger, rates, number = LedgerDatabase(sys.argv[1]), FlatRates(), 0
while True:
    number += 1
    try:
        ledger.append([row(f"r{number}")], rates)
    except LedgerUnavailable:
        time.sleep(0.05)
        continue
    print(json.dumps([time.time(), f"r{number}"]), flush=True)
    time.sleep(0.002)
"""
EXPORTED = {
    "pg_stat_wal_receiver_status": "SELECT CASE status WHEN 'streaming' THEN 2 ELSE 1 END "
    "FROM pg_stat_wal_receiver",
    "pg_stat_wal_receiver_latest_end_lsn": "SELECT (latest_end_lsn - '0/0') % (2^52)::bigint "
    "FROM pg_stat_wal_receiver",
    "pg_replication_last_replay_seconds": "SELECT GREATEST(0, EXTRACT(EPOCH FROM now() - "
    "pg_last_xact_replay_timestamp()))",
    "pg_replication_lag_seconds": "SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() "
    "THEN 0 ELSE EXTRACT(EPOCH FROM now() - pg_last_xact_replay_timestamp()) END",
}
"""As postgres_exporter 0.20 asks a standby."""


class Host(Postgres):
    """PostgreSQL on one machine, with the bundle's files; without data until it has been made."""

    def __init__(self, machine: Machine, bundle: Path, other: str) -> None:
        self.machine, self.bundle, self.other = machine, bundle, other
        super().__init__()
        self.within = machine.enter
        self.port = PORT

    def _initdb(self) -> None:
        for name in ("root.crt", "server.crt", "server.key"):
            path = self.folder / name
            path.write_bytes((self.bundle / f"{self.machine.name}-{name}").read_bytes())
            os.chown(path, NOBODY, NOBODY)
            path.chmod(0o600)
        passwords = self.folder / "pgpass"
        passwords.write_text(f"*:*:*:replicator:{PASSWORD}\n")
        passwords.chmod(0o600)
        os.chown(passwords, NOBODY, NOBODY)

    def make(self) -> None:
        """An empty database, with the rendered files."""
        Postgres._initdb(self)
        self.allow()

    def allow(self) -> None:
        rules = (self.bundle / "database/pg_hba.conf").read_text().replace("OTHER", self.other)
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(rules)

    def command(self) -> list[str]:
        """With the bundle's settings included from a configuration outside of the data, as Debian has it."""
        config = self.folder / "postgresql.conf"
        config.write_text(
            f"include '{self.bundle}/database/primary.conf'\n"
            f"data_directory = '{self.data}'\nhba_file = '{self.data}/pg_hba.conf'\n"
            f"listen_addresses = '{self.machine.address}'\nport = {PORT}\n"
            f"unix_socket_directories = '{self.folder}'\nlog_min_messages = warning\n"
            f"ssl_cert_file = '{self.folder}/server.crt'\nssl_key_file = '{self.folder}/server.key'\n"
            "shared_buffers = 32MB\n"
        )
        return [postgres_program("postgres"), "-D", str(self.data), f"--config-file={config}"]

    def script(self, name: str) -> str:
        """What a script of the bundle prints on this machine, as PostgreSQL's own user."""
        environment = {
            "PATH": f"{Path(postgres_program('psql')).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PGHOST": self.other,
            "PGPORT": str(PORT),
            "PGUSER": "replicator",
            "PGDATA": str(self.data),
            "PGPASSFILE": str(self.folder / "pgpass"),
            "PGSSLROOTCERT": str(self.folder / "root.crt"),
            "PGCONFIG": str(self.folder / "postgresql.conf"),
        }
        done = subprocess.run(
            [*self.machine.enter, *unprivileged(), str(self.bundle / f"database/{name}")],
            env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def rows(self) -> set[str]:
        return set(self.sql("SELECT request_id FROM ledger.usage", "sextant").split())


@dataclass(frozen=True)
class Sites:
    """Both hosts, the one that was the primary first."""

    network: Network
    hosts: dict[str, Host]
    folder: Path

    def url(self) -> str:
        """As the document has it: both hosts, whichever takes writes."""
        both = ",".join(f"{address}:{PORT}" for address in HOSTS.values())
        tls = f"sslmode=verify-full&sslrootcert={self.folder}/hall-root.crt"
        return f"postgresql://sextant:{PASSWORD}@{both}/sextant?target_session_attrs=read-write&{tls}"

    def acknowledged(self) -> list[tuple[float, str]]:
        lines = (self.folder / "acknowledged").read_text().rpartition("\n")[0].splitlines()
        return [(at, name) for at, name in map(json.loads, lines)]


def _certified(folder: Path) -> None:
    """One authority, and a certificate for each host's address."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "root.key", "-out", "root.crt", "-days", "2", "-subj", "/CN=r")
    for name, address in HOSTS.items():
        key, request = f"{name}-server.key", f"{name}.csr"
        openssl("req", *curve, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        (folder / "san").write_text(f"subjectAltName=IP:{address}")
        sign = ("x509", "-req", "-in", request, "-CA", "root.crt", "-CAkey", "root.key", "-CAcreateserial")
        openssl(*sign, "-days", "2", "-extfile", "san", "-out", f"{name}-server.crt")
        (folder / f"{name}-root.crt").write_bytes((folder / "root.crt").read_bytes())


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that PostgreSQL's user may read, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="sx-sites-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@contextlib.contextmanager
def _sites(folder: Path) -> Iterator[Sites]:
    for file in render(order("hybrid", **{**HYBRID, "continuity": {"rpo_s": RPO_S}})).files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(0o755 if file.executable else 0o644)
    _certified(folder)
    with contextlib.ExitStack() as ended:
        addresses = {name: f"{address}/24" for name, address in HOSTS.items()}
        net = ended.enter_context(namespaces.network("10.78.0.9/24", **addresses))
        hosts = {}
        for name, other in zip(HOSTS, reversed(HOSTS.values()), strict=True):
            hosts[name] = Host(net.machines[name], folder, other)
            ended.callback(hosts[name].remove)
        sites = Sites(net, hosts, folder)
        _began(sites)
        yield sites


def _began(sites: Sites) -> None:
    """The steps of the README."""
    primary, standby = sites.hosts.values()
    primary.make()
    primary.start()
    primary.sql("CREATE DATABASE sextant")
    primary.sql(f"ALTER ROLE sextant PASSWORD '{PASSWORD}'")
    roles = (sites.folder / "database/roles.sql").read_text()
    assert "\\password replicator" in roles
    primary.sql(roles.replace("\\password replicator", f"ALTER ROLE replicator PASSWORD '{PASSWORD}'"))
    assert "follows 10.78.0.1" in standby.script("standby.sh")
    rules = (standby.data / "pg_hba.conf").read_text().replace(f"{standby.machine.address}/32", "OTHER/32")
    (standby.data / "pg_hba.conf").write_text(rules.replace("OTHER", primary.machine.address))
    standby.start()


@contextlib.contextmanager
def _writing(sites: Sites) -> Iterator[None]:
    """A ledger that knows both hosts and writes one row after the other, from a machine of neither site."""
    with (sites.folder / "acknowledged").open("wb") as out:
        writer = subprocess.Popen(
            [*sites.network.hub.enter, sys.executable, "-c", WRITE, sites.url()],
            stdout=out, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        try:
            until(lambda: len(sites.acknowledged()) > 50, "rows are acknowledged")
            yield
        finally:
            writer.kill()
            writer.wait(20)


@contextlib.contextmanager
def _watched(sites: Sites) -> Iterator[int]:
    """The port of a Prometheus that reads the standby once a second and has the rendered alerts."""
    standby = sites.hosts["cloud"]

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines = []
            where = {"host": str(standby.folder), "port": PORT, "user": "sextant", "dbname": "postgres"}
            with psycopg.connect(**where) as db:  # type: ignore[arg-type]
                for name, query in EXPORTED.items():
                    lines += [
                        f"{name} {value}" for (value,) in db.execute(query.encode()) if value is not None
                    ]
            body = "\n".join([*lines, ""]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    (port,) = free_ports(1)
    exporter = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    thread = threading.Thread(target=exporter.serve_forever)
    thread.start()
    rules = yaml.safe_load((sites.folder / "private/manifests/80-replication.yaml").read_text())
    (sites.folder / "rules.yml").write_text(yaml.safe_dump(rules["spec"]))
    target = {"targets": [f"127.0.0.1:{exporter.server_port}"]}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "standby", "static_configs": [target]}],
    }
    (sites.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with (sites.folder / "prometheus.log").open("wb") as log:
        prometheus = subprocess.Popen(
            [
                *("prometheus", f"--config.file={sites.folder}/prometheus.yml"),
                *(f"--storage.tsdb.path={sites.folder}/tsdb", f"--web.listen-address=127.0.0.1:{port}"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield port
    finally:
        prometheus.terminate()
        prometheus.wait(60)
        exporter.shutdown()
        thread.join()
        exporter.server_close()


def _asked(port: int, path: str) -> object:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}") as said,
    ):
        return json.load(said)["data"]
    return {}  # it is starting


def _firing(port: int) -> set[str]:
    alerts = _asked(port, "alerts")
    assert isinstance(alerts, dict)
    found = alerts.get("alerts", [])
    return {each["labels"]["alertname"] for each in found if each["state"] == "firing"}


def _value(port: int, name: str) -> float:
    found = _asked(port, f"query?query={name}")
    assert isinstance(found, dict)
    return float(found["result"][0]["value"][1]) if found.get("result") else -1.0


def test_the_link_is_cut_and_then_the_primary_lost(folder: Path) -> None:
    with _sites(folder) as sites, _writing(sites), _watched(sites) as port:
        cloud = sites.hosts["cloud"]
        until(lambda: _value(port, "pg_stat_wal_receiver_status") == 2, "the standby follows")
        until(lambda: len(cloud.rows()) > 50, "rows arrive")
        until(lambda: _firing(port) == set(), "nobody is called")

        cut = time.time()
        sites.network.link("cloud", "down")
        until(lambda: "SextantReplicationCut" in _firing(port), "somebody is called", 60)
        behind_s = _value(port, "pg_replication_last_replay_seconds")
        assert behind_s > RPO_S / 3
        assert _value(port, "pg_replication_lag_seconds") == 0, "which is why the alert does not ask for it"
        print(f"link cut: somebody is called after {time.time() - cut:.1f} s; {RPO_S} s may be lost")
        missing = _lost(sites, cut)
        _back(sites, missing)


def _lost(sites: Sites, cut: float) -> set[str]:
    """kill -9 while nothing crosses, and the steps of the README. What was acknowledged and is not there."""
    hall, cloud = sites.hosts.values()
    hall.kill()
    lost_at = time.time()
    known = len(sites.acknowledged())
    sites.network.link("cloud", "up")
    cloud.sql("SELECT pg_promote()")
    cloud.sql("CHECKPOINT")
    until(lambda: len(sites.acknowledged()) > known + 50, "the ledger writes to the other site", 60)
    rows, acknowledged = cloud.rows(), sites.acknowledged()
    missing = {name: at for at, name in acknowledged[:known] if name not in rows}
    assert missing and min(missing.values()) > cut - 1, "only what was written while the link was cut"
    assert {name for at, name in acknowledged if at < cut - 1} <= rows
    print(
        f"primary killed: {len(missing)} of {known} acknowledged rows are lost, written in the last "
        f"{lost_at - min(missing.values()):.1f} s; the ledger writes again after "
        f"{acknowledged[known][0] - lost_at:.1f} s"
    )
    return set(missing)


def _back(sites: Sites, missing: set[str]) -> None:
    """The old primary has rows that nobody else has; as the standby it has what the new one has."""
    hall, cloud = sites.hosts.values()
    began = time.time()
    assert "follows 10.78.0.2" in hall.script("rejoin.sh")
    hall.start()
    known = cloud.rows()
    until(lambda: known <= hall.rows(), "all that there is arrives at the old primary", 60)
    assert hall.sql("SELECT pg_is_in_recovery()") == "t"
    assert not missing & hall.rows()
    print(f"the old primary follows after {time.time() - began:.1f} s")
