"""The state directory: where everything of one deployment lives, its permissions and its lock.

`accounts.db` and `ledger.db` are kept; `run/` holds what the processes of one start tell each other and is
emptied at the next; `logs/` is kept; `secrets/` holds files of mode 0600; `models/` holds fetched models;
`applied.json` is the document that was applied last, `source/` the repository it came from. One supervisor at
a time holds the lock (`StateDir.lock`); other programs read its pid there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from sextant.base.errors import Misconfigured

DEFAULT_STATE = Path(".sextant")
STATE_VARIABLE = "SEXTANT_STATE"
LOCK_ATTEMPTS = 5
LOCK_RETRY_S = 0.05
SOCKET_PATH_BYTES_MAX = 107
"""Linux's bound on a Unix socket's path."""


class StateDir:
    """Paths below one state directory. Creating the object touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.accounts_db = self.root / "accounts.db"
        self.ledger_db = self.root / "ledger.db"
        self.lock_file = self.root / "lock"
        self.run = self.root / "run"
        self.logs = self.root / "logs"
        self.secrets = self.root / "secrets"
        self.models = self.root / "models"
        self.store_file = self.root / "store.json"
        self.applied_file = self.root / "applied.json"
        self.source = self.root / "source"
        self.sync_file = self.source / "sync.json"
        self.routes_file = self.run / "routes.json"
        self.policy_file = self.run / "policy.json"
        self.ledger_url_file = self.run / "ledger.url"
        self.identity_file = self.run / "identity.json"
        self.control_file = self.run / "control.json"
        self.status_file = self.run / "status.json"
        self.engine_metrics_file = self.run / "engines.prom"
        self.ledger_socket = self.run / "ledger.sock"
        self.apply_socket = self.run / "apply.sock"
        self.admin_secret = self.secrets / "admin"
        self.cli_key = self.secrets / "local-cli"
        self.first_run = self.secrets / "first-run"

    def prepare(self) -> None:
        """Makes the directories (0700) and checks that they are ours. Raises Misconfigured."""
        for folder in (self.root, self.run, self.logs, self.secrets):
            try:
                folder.mkdir(mode=0o700, parents=folder is self.root, exist_ok=True)
            except OSError as error:
                raise Misconfigured(
                    f"the state directory {folder} cannot be made: {_why(error)}; "
                    f"name another with --state DIR"
                ) from None
            self._check_owner(folder)
        if len(os.fsencode(self.ledger_socket)) > SOCKET_PATH_BYTES_MAX:
            raise Misconfigured(
                f"the state directory's path is too long for a Unix socket ({self.ledger_socket} has more "
                f"than {SOCKET_PATH_BYTES_MAX} bytes); name a shorter one with --state DIR"
            )

    def _check_owner(self, folder: Path) -> None:
        status = folder.stat()
        if status.st_uid != os.geteuid():
            raise Misconfigured(
                f"the state directory {folder} belongs to user {status.st_uid}, not to {os.geteuid()}; "
                f"name another with --state DIR"
            )
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise Misconfigured(f"the state directory {folder} is not writable; run: chmod u+rwx {folder}")
        if status.st_mode & 0o077:
            folder.chmod(0o700)

    def clear_run(self) -> None:
        """Removes what an earlier start left in `run/`. Call with the lock held."""
        for stale in self.run.iterdir():
            if not stale.is_dir() or stale.is_symlink():
                stale.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds this directory for one supervisor. Raises Misconfigured naming the pid that holds it."""
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _locks(descriptor, LOCK_ATTEMPTS):
                raise Misconfigured(_taken(self, _read_pid(self.lock_file)), code="already_running")
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def holder(self) -> int | None:
        """The pid of the supervisor that holds the lock, or None when nothing runs here."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _read_pid(self.lock_file)
        finally:
            os.close(descriptor)
        return None


def write_private(path: Path, data: bytes) -> None:
    """Writes `path` whole (temporary file, then rename), readable by the owner alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def check_port_free(host: str, port: int, flag: str) -> None:
    """Raises Misconfigured, naming who listens there where that can be seen, when `port` cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise Misconfigured(f"{host} is not an address of this machine; try --host 127.0.0.1") from None
        except PermissionError:
            raise Misconfigured(
                f"port {port} needs root; choose one from 1024 up: {flag} PORT", field=flag
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Misconfigured(
                    f"port {port} on {host} is taken{_listener(port)}; stop that program, or choose "
                    f"another port: {flag} PORT",
                    field=flag,
                    code="port_in_use",
                ) from None
            raise Misconfigured(
                f"cannot listen on {host}:{port}: {_why(error)}; is {host} an address of this machine?"
            ) from None


def reserve_port(host: str, option: str = "SO_REUSEPORT") -> socket.socket:
    """A free port, bound with the socket option named and never listened on: it stays ours while open.

    An engine that binds it with the same option gets every connection, across its own restarts.
    """
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    shared = socket.SO_REUSEPORT if option == "SO_REUSEPORT" else socket.SO_REUSEADDR
    held.setsockopt(socket.SOL_SOCKET, shared, 1)
    held.bind((host, 0))
    return held


def _locks(descriptor: int, attempts: int) -> bool:
    """Takes the lock; tries again shortly, since a look by `holder` takes it for an instant too."""
    for attempt in range(attempts):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if attempt + 1 < attempts:
                time.sleep(LOCK_RETRY_S)
    return False


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _read_pid(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _taken(state: StateDir, pid: int | None) -> str:
    who = f"process {pid}" if pid else "another process"
    where = ""
    with contextlib.suppress(OSError, ValueError, KeyError):
        where = f", serving {json.loads(state.status_file.read_bytes())['url']}"
    return (
        f"Sextant already runs with the state directory {state.root} ({who}{where}); stop it with "
        f"`sextant down`, or run a second one with --state DIR --port PORT --control-port PORT"
    )


def _listener(port: int) -> str:
    """` by NAME (pid N)` where /proc shows who listens on `port`, else nothing."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for row in Path(table).read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                return f" by {(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""
