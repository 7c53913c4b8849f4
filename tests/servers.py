"""Real PostgreSQL and Redis for tests: started once per test session, fresh and empty for each test.

`postgres` and `redis_server` are the servers, which a test may kill, restart or freeze; `database` is the URL
of a new empty database, `redis_url` that of an emptied Redis; `private_redis` makes one with settings of the
test's own. All listen on loopback only, keep their files in a temporary folder, flush to disk as in
production, and end with the test run, however that ends. A missing program is a failure with the way out,
never a skip.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

START_TIMEOUT_S = 30.0
NOBODY = 65534
PASSWORD = "of-the-tests"
"""PostgreSQL asks for it on TCP, as a real one does; Redis where a test wants one."""
DEBIAN = Path("/usr/lib/postgresql")
POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
    "autovacuum_naptime": "10s",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process in a folder of its own; `start` it, `kill` it, `start` it again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"sx-{name}-"))
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        self.log = self.folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.within: tuple[str, ...] = ()
        """What it is run by: another network, for example."""

    def start(self) -> None:
        """Starts and waits until it answers. A server that runs already is left alone."""
        if self.running:
            return
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [*self.within, *unprivileged(), *self.command()], stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, cwd=self.folder, env=_environment(self.folder),
                    start_new_session=True,
                )  # fmt: skip
            while self.process.poll() is None and not self.answers():
                if time.monotonic() > deadline:
                    self.kill()
                    pytest.fail(f"{self.name} does not answer:\n{self.said()}")
                time.sleep(0.01)
            if self.process.poll() is None:
                return
            # A server that was killed a moment ago may still hold what the next one needs.
            if time.monotonic() > deadline:
                pytest.fail(f"{self.name} does not start:\n{self.said()}")
            time.sleep(0.05)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """`kill -9`: the server, then the processes it had started."""
        if self.process is None:
            return
        children = _children(self.process.pid)
        for pid in (self.process.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(START_TIMEOUT_S)

    def stop(self) -> None:
        """Shuts down in an orderly way."""
        if self.running:
            assert self.process is not None
            os.kill(self.process.pid, self.stop_signal)
            self.process.wait(START_TIMEOUT_S)

    def restart(self) -> None:
        """Kills it and starts it again over the same files."""
        self.kill()
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Neither answers nor closes anything meanwhile, like a host that hangs."""
        pids = [self.pid, *_children(self.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def remove(self) -> None:
        """Ends it and deletes its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else "nothing"

    stop_signal = signal.SIGTERM

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError


class Postgres(Server):
    """PostgreSQL as Debian ships it, user `sextant`; a password on TCP, none on its Unix socket."""

    stop_signal = signal.SIGINT  # "fast": open transactions are rolled back

    def __init__(self) -> None:
        super().__init__("postgres")
        self.data = self.folder / "data"
        self._initdb()

    def _initdb(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        run(
            *(postgres_program("initdb"), f"--pgdata={self.data}", "--username=sextant", "--no-sync"),
            *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"),
            *("--encoding=UTF8", "--locale=C.UTF-8"),
            folder=self.folder,
        )

    def command(self) -> list[str]:
        settings = {
            **POSTGRES_SETTINGS,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [postgres_program("postgres"), "-D", str(self.data), *options]

    def answers(self) -> bool:
        probe = [postgres_program("pg_isready"), "-q", "-h", str(self.folder), "-p", str(self.port)]
        return subprocess.run(probe, check=False, cwd="/").returncode == 0

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for `statement`, fields apart by `|`; fails the test when it is refused."""
        return run(
            *(postgres_program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "sextant"),
            *("-h", str(self.folder), "-p", str(self.port), "-d", database, "-c", statement),
            folder=self.folder,
        )

    def create_database(self, like: str = "") -> str:
        """The URL of a new database, with its password: empty, or a copy of the one at the URL `like`."""
        name = f"test_{secrets.token_hex(6)}"
        self._manage(f"CREATE DATABASE {name} TEMPLATE {like.rpartition('/')[2] or 'template1'}")
        return f"postgresql://sextant:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        name = url.rpartition("/")[2]
        self._manage(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _manage(self, statement: str) -> None:
        """As `sql`, outside a transaction and without a process: two for every test with a database."""
        where = {"host": str(self.folder), "port": self.port, "user": "sextant", "dbname": "postgres"}
        with psycopg.connect(**where, autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute(statement.encode())


class Redis(Server):
    """Redis as Debian ships it. `options` are lines of redis.conf, name to value; `durable` keeps an
    append-only file that is flushed with every write."""

    def __init__(self, *, durable: bool = False, password: str = "", **options: str) -> None:
        super().__init__("redis")
        self.password = password
        self.options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if durable else "no",
            "appendfsync": "always",
            **({"requirepass": password} if password else {}),
            **{name.replace("_", "-"): value for name, value in options.items()},
        }

    @property
    def url(self) -> str:
        """Without a password, as a document has it."""
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        words = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        return [program("redis-server", "redis-server", "/usr/bin"), *words]

    def answers(self) -> bool:
        try:
            return self.cli("PING") in ("PONG", "NOAUTH Authentication required.")
        except (OSError, subprocess.CalledProcessError):
            return False

    def cli(self, *words: str) -> str:
        """What redis-cli prints for one command."""
        command = [program("redis-cli", "redis-tools", "/usr/bin"), "-p", self.options["port"], *words]
        environment = {**os.environ, "REDISCLI_AUTH": self.password} if self.password else None
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    def empty(self) -> None:
        self.cli("FLUSHALL")


def program(name: str, package: str, folder: str) -> str:
    """The path of a program; fails the test where it is not installed."""
    found = shutil.which(name, path=f"{folder}:{os.environ.get('PATH', '')}")
    if found is None:
        pytest.fail(f"{name} is not on this machine (Debian package {package}); run: make servers")
    return found


def postgres_program(name: str) -> str:
    """A program of the newest PostgreSQL that Debian has installed."""
    versions = sorted(DEBIAN.glob("*/bin"), key=lambda found: int(re.sub(r"\D", "", found.parent.name) or 0))
    return program(name, "postgresql", str(versions[-1]) if versions else "/usr/bin")


def unprivileged() -> list[str]:
    """What goes before a command so that it is not root and dies with this process."""
    become = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *become, "--pdeathsig=KILL"]


def run(*command: str, folder: Path) -> str:
    """What an unprivileged `command` prints; its own words when it fails."""
    done = subprocess.run(
        [*unprivileged(), *command], capture_output=True, text=True, cwd=folder, check=False,
        env=_environment(folder), timeout=START_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _environment(folder: Path) -> dict[str, str]:
    return {"HOME": str(folder), "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}


def _children(pid: int) -> list[int]:
    """Pids of the processes that `pid` has started."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@pytest.fixture(scope="session")
def _postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def _redis() -> Iterator[Redis]:
    server = Redis()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres(_postgres: Postgres) -> Postgres:
    """The session's PostgreSQL, running; a test may kill or restart it."""
    _postgres.start()
    return _postgres


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The URL of a new, empty database (with its password), dropped after the test."""
    url = postgres.create_database()
    yield url
    postgres.start()
    postgres.drop_database(url)


@pytest.fixture
def redis_server(_redis: Redis) -> Redis:
    """The session's Redis, running and empty; a test may kill or restart it."""
    _redis.start()
    _redis.empty()
    return _redis


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The URL of an emptied Redis without a password."""
    return redis_server.url


@pytest.fixture
def private_redis() -> Iterator[Callable[..., Redis]]:
    """Makes and starts a Redis of the test's own, with `Redis`'s arguments."""
    made: list[Redis] = []

    def make(**options: str) -> Redis:
        made.append(Redis(**options))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.remove()
