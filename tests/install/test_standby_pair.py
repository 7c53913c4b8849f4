"""The standby pair, run: two machines with the rendered keepalived, front and gateway, callers at a third.

Real: keepalived's configuration and unit, nginx and haproxy with TLS, `sextant up` on both machines, one
PostgreSQL for both, callers of the shared address. The machines are network namespaces. Whoever takes
something away measures what callers and the addresses say about it.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from install import namespaces
from install.conftest import Server, write_bundle
from install.machines import as_installed
from install.namespaces import Machine, Network
from servers import Postgres
from stack_under_test import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "there are namespaces"),
]

SHARED = "10.77.0.10"
HOSTS = {"first": "10.77.0.11", "second": "10.77.0.12"}
DATABASE = "10.77.0.20"
DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: plant}}
spec:
  mode: on-prem
  model: {{name: sextant-nano}}
  engine: {{kind: embedded}}
  gateway: {{host: 0.0.0.0, port: 8443, tls: {{cert_file: server.pem, key_file: server.key}}}}
  store:
    url: "postgresql://sextant@{database}:{port}/sextant?sslmode=disable"
    password: env:STORE_PASSWORD
  continuity: {{standby: {{address: {shared}, peer: {second}, interface: eth0}}}}
  sites: [{{name: hall-1, kind: private, hosts: [{first}, {second}]}}]
  delivery: {{front: {front}}}
"""
DEAF = (
    "add table inet deaf; add chain inet deaf input { type filter hook input priority -10; }; "
    "add rule inet deaf input meta l4proto 112 drop"
)
"""Drops VRRP and nothing else."""
SERVING, FRONT, STANDBY = "sextant.service", "sextant-front.service", "sextant-standby.service"
EVERY_S, GIVES_UP_S = 0.05, 3
"""One call begins so often, whatever became of those before; nobody waits longer for an answer."""
BOTH_MOST_S = 2.0
"""Far more than was ever seen; both have the address for longer only while they cannot hear each other."""
CALL = """
import http.client, json, ssl, sys, threading, time
address, port, authority, key, every_s, gives_up_s = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
asked = [{"role": "user", "content": "1+2"}]
body = json.dumps({"model": "sextant-nano", "max_tokens": 4, "messages": asked})
headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
lock = threading.Lock()
def call():
    began, request, why = time.time(), "", ""
    connection = http.client.HTTPSConnection(address, int(port), timeout=int(gives_up_s), context=context)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        why = "" if answer.status == 200 else text
        said, request = str(answer.status), answer.getheader("x-request-id") or ""
    except (OSError, http.client.HTTPException) as error:
        said = type(error).__name__
    finally:
        connection.close()
    with lock:
        print(json.dumps([began, time.time(), said, request, why]), flush=True)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
calls = []
while not stop.wait(float(every_s)):
    calls.append(threading.Thread(target=call))
    calls[-1].start()
for each in calls:
    each.join()
"""


class Database(Postgres):
    """PostgreSQL at the network's own address."""

    def command(self) -> list[str]:
        return [word.replace("=127.0.0.1", f"={DATABASE}") for word in super().command()]


@dataclass(frozen=True)
class Call:
    """One call as its caller saw it: the status, or the error."""

    began: float
    ended: float
    said: str
    request: str
    why: str
    """The body of an answer that is none."""


@dataclass(frozen=True)
class Pair:
    """Both machines, running, and callers of their address."""

    network: Network
    servers: dict[str, Server]
    database: Postgres
    folder: Path

    def called(self) -> list[Call]:
        lines = (self.folder / "calls.jsonl").read_text().rpartition("\n")[0].splitlines()
        return [Call(*json.loads(line)) for line in lines]

    def holders(self) -> list[str]:
        return [name for name in HOSTS if self.network.machines[name].has(SHARED)]

    def settled(self) -> tuple[str, str]:
        """Who has the address and who waits for it, once both say so."""

        def states() -> list[str]:
            said = [re.findall(r"Entering (\w+) STATE", server.logs()) for server in self.servers.values()]
            return [words[-1] if words else "" for words in said]

        until(lambda: sorted(states()) == ["BACKUP", "MASTER"], "one is master, one waits", 60)
        (holder,) = self.holders()
        return holder, next(name for name in HOSTS if name != holder)

    def pids(self, name: str, unit: str) -> list[int]:
        """All processes of a unit."""
        keeper = int((self.servers[name].root / f"run/unit-runner/{unit}.pid").read_text())
        return _below(keeper)[1:]

    def signal(self, name: str, unit: str, number: int) -> None:
        for pid in self.pids(name, unit):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def answered(self) -> None:
        """Waits for an answer to a call that begins after this."""
        now = time.time()

        def said() -> list[str]:
            return [f"{call.said}{call.why}" for call in self.called() if call.began > now]

        try:
            until(lambda: "200" in said(), "a call is answered", 60)
        except AssertionError as error:
            near = self.network.machines["callers"].run("ip", "neighbour")
            raise AssertionError(f"{error}: {Counter(said())}\n{near}{self.holders()}") from None

    def both_s(self) -> float:
        """The longest that both had the address."""
        held: dict[str, list[tuple[float, float]]] = {}
        for name in HOSTS:
            changes, since = [], 0.0
            for line in (self.folder / f"{name}.addresses").read_text().splitlines():
                if f" {SHARED}/" not in line:
                    continue
                words = line[1 : line.index("]")]
                at = datetime.datetime.fromisoformat(words).replace(tzinfo=datetime.UTC).timestamp()
                if "] Deleted " in line and since:
                    changes.append((since, at))
                    since = 0.0
                elif "] Deleted " not in line:
                    since = since or at
            held[name] = [*changes, *([(since, time.time())] if since else [])]
        first, second = held.values()
        return max([0.0, *(min(a[1], b[1]) - max(a[0], b[0]) for a in first for b in second)])


def _below(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += _below(int(child))
    return found


@contextlib.contextmanager
def _database(network: Network) -> Iterator[Postgres]:
    server = Database()
    server.within = network.hub.enter
    try:
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.77.0.0/24 scram-sha-256\n")
        server.start()
        server.sql("CREATE DATABASE sextant")
        yield server
    finally:
        server.remove()


@contextlib.contextmanager
def _calling(network: Network, key: str, folder: Path) -> Iterator[None]:
    with (folder / "calls.jsonl").open("wb") as out:
        callers = subprocess.Popen(
            [
                *(*network.machines["callers"].enter, sys.executable, "-c", CALL, SHARED, "8443"),
                *(str(folder / "server.pem"), key, str(EVERY_S), str(GIVES_UP_S)),
            ],
            stdin=subprocess.PIPE,
            stdout=out,
        )
        try:
            yield
        finally:
            assert callers.stdin is not None
            callers.stdin.close()
            callers.wait(20)


@contextlib.contextmanager
def _running(front: str, folder: Path) -> Iterator[Pair]:
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    files = ("-keyout", str(folder / "server.key"), "-out", str(folder / "server.pem"), "-days", "2")
    subject = ("-subj", "/CN=plant", "-addext", f"subjectAltName=IP:{SHARED}")
    subprocess.run([*made, *files, *subject], check=True, capture_output=True)
    addresses = {name: f"{address}/24" for name, address in HOSTS.items()}
    with contextlib.ExitStack() as ended:
        net = ended.enter_context(namespaces.network(f"{DATABASE}/24", **addresses, callers="10.77.0.30/24"))
        database = ended.enter_context(_database(net))
        words = {"front": front, "shared": SHARED, "database": DATABASE, "port": database.port}
        bundle = write_bundle(DOCUMENT.format(**HOSTS, **words), folder / "plant")
        servers = {
            name: as_installed(bundle, within=net.machines[name].enter, role=f"server-{number}")
            for number, name in enumerate(HOSTS)
        }
        ended.callback(_ended, servers)
        _served(servers)
        for name, server in servers.items():
            ended.enter_context(_watched(net.machines[name], folder / f"{name}.addresses"))
            server.unit("start", FRONT, STANDBY)
        pair = Pair(net, servers, database, folder)
        pair.settled()
        key = (servers["first"].state / "secrets/local-cli").read_text().strip()
        with _calling(net, key, folder):
            pair.answered()
            yield pair
            pair.answered()
        _each_answer_has_its_row(pair)


def _served(servers: dict[str, Server]) -> None:
    """Both gateways run: the second one on the database that the first one made."""
    for name, server in servers.items():
        server.unit("start", SERVING)
        until(lambda server=server: "serves sextant-nano" in server.logs(), f"{name} serves", 60)


@contextlib.contextmanager
def _watched(machine: Machine, changes: Path) -> Iterator[None]:
    """Writes down each address that comes and goes, with its time."""
    with changes.open("wb") as out:
        watcher = subprocess.Popen([*machine.enter, "ip", "-ts", "-o", "monitor", "address"], stdout=out)
        try:
            yield
        finally:
            watcher.terminate()
            watcher.wait(20)


def _ended(servers: dict[str, Server]) -> None:
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda server: server.unit("stop", STANDBY, FRONT, SERVING), servers.values()))
    for server in servers.values():
        print(server.logs())
        shutil.rmtree(server.root)


def _each_answer_has_its_row(pair: Pair) -> None:
    calls = pair.called()
    answered = {call.request for call in calls if call.said == "200"}
    rows = set(pair.database.sql("SELECT request_id FROM ledger.usage", "sextant").split())
    assert answered <= rows, f"{len(answered - rows)} answers have no row"
    assert len(rows - answered) <= sum(call.said != "200" for call in calls), "rows that nobody asked for"
    print(f"{len(answered)} answers of {len(calls)} calls, {len(rows)} rows in the one ledger")


def _taken_over(pair: Pair, title: str, take_away: Callable[[str], None]) -> str:
    """Takes something away from who has the address; the other one must have it then. Who had it."""
    holder, other = pair.settled()
    began = time.time()
    take_away(holder)
    until(lambda: pair.holders() == [other], f"{title}: the other one has the address", 30)
    moved = time.time()
    pair.answered()
    until(lambda: time.time() > moved + GIVES_UP_S, "calls under way have ended", 30)
    calls = [call for call in pair.called() if began - 0.5 < call.began < moved + GIVES_UP_S]
    ends = sorted(call.ended for call in calls if call.said == "200")
    away_s = max(later - earlier for earlier, later in itertools.pairwise(ends))
    failed = Counter(call.said for call in calls if call.said != "200")
    print(
        f"{title}: moved after {moved - began:.2f} s, longest without an answer {away_s:.2f} s, "
        f"failed {sum(failed.values())} of {len(calls)} {dict(failed)}"
    )
    return holder


def test_whoever_fails_the_other_answers(tmp_path: Path) -> None:
    with _running("nginx", tmp_path) as pair:
        _taken_over(pair, "keepalived killed", lambda name: pair.signal(name, STANDBY, signal.SIGKILL))
        _taken_over(pair, "gateway killed", lambda name: pair.signal(name, SERVING, signal.SIGKILL))
        cut = _taken_over(pair, "link cut", lambda name: pair.network.link(name, "down"))
        pair.network.link(cut, "up")
        assert pair.settled()[1] == cut, "who comes back waits: a second move would break calls again"
        assert pair.both_s() < BOTH_MOST_S
        print(f"both had the address for {pair.both_s():.3f} s at most")

        machines = [pair.network.machines[name] for name in HOSTS]
        for machine in machines:
            machine.run("nft", DEAF)
        until(lambda: len(pair.holders()) == 2, "neither hears the other: both take the address")
        pair.answered()
        for machine in machines:
            machine.run("nft", "delete table inet deaf")
        healed = time.time()
        until(lambda: len(pair.holders()) == 1, "they hear each other: one gives it up")
        print(f"deaf to each other both had the address; {time.time() - healed:.2f} s later one had")
        pair.settled()
        pair.answered()


def test_what_hangs_has_failed_too(tmp_path: Path) -> None:
    with _running("haproxy", tmp_path) as pair:
        hung = _taken_over(pair, "gateway hangs", lambda name: pair.signal(name, SERVING, signal.SIGSTOP))
        pair.signal(hung, SERVING, signal.SIGCONT)
        assert pair.settled()[1] == hung
        _taken_over(pair, "gateway killed", lambda name: pair.signal(name, SERVING, signal.SIGKILL))
        _taken_over(pair, "front stopped", lambda name: pair.servers[name].unit("stop", FRONT) and None)
        assert pair.both_s() < BOTH_MOST_S
        print(f"both had the address for {pair.both_s():.3f} s at most")
