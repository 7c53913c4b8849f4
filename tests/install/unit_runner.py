"""Units without systemd: runs their `ExecStart` with their environment and limits, for tests.

Process 1 of a container is not systemd, so the scripts of a bundle are given this as `SEXTANT_SYSTEMCTL`. It
knows what they use of systemctl, and of a unit: Exec lines, Environment(File), WorkingDirectory, UMask,
LimitNOFILE, NoNewPrivileges, MemoryDenyWriteExecute, KillMode, TimeoutStopSec, Restart, RestartSec,
LoadCredential, CacheDirectory, RuntimeDirectory. Users, namespaces, system call filters and cgroups are left
out: systemd alone can set them.

A service is kept by a process of this file (`keep UNIT`), which ends with the process whose pid stands in
`UNIT_RUNNER_OWNER`, so that a killed test run leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["SEXTANT_ROOT"])
UNITS = ROOT / "etc/systemd/system"
RUN = ROOT / "run/unit-runner"
OWNER = int(os.environ.get("UNIT_RUNNER_OWNER", "0"))
PR_SET_NO_NEW_PRIVS = 38
PR_SET_MDWE = 65
POLL_S = 0.05


class Unit:
    """One unit file: keys to all their values."""

    def __init__(self, name: str) -> None:
        self.name = name
        path = UNITS / name
        if not path.exists():
            sys.exit(f"unit {name} is not installed in {UNITS}")
        self.keys: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            if "=" in line and not line.startswith("#"):
                key, _, value = line.partition("=")
                self.keys.setdefault(key, []).append(value)

    def last(self, key: str, default: str = "") -> str:
        return self.keys.get(key, [default])[-1]

    def environment(self) -> dict[str, str]:
        path = (
            os.environ.get("UNIT_RUNNER_PATH", "")
            + "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        )
        found = {"PATH": path, "SEXTANT_ROOT": str(ROOT)}  # scripts that units run are below it
        for value in self.keys.get("Environment", []):
            found |= dict(part.split("=", 1) for part in shlex.split(value))
        for value in self.keys.get("EnvironmentFile", []):
            path = Path(value.removeprefix("-"))
            if not value.startswith("-") or path.exists():
                lines = [line for line in path.read_text().splitlines() if "=" in line]
                found |= {
                    key: " ".join(shlex.split(rest)) for key, _, rest in (ln.partition("=") for ln in lines)
                }
        if self.last("CacheDirectory"):
            found["CACHE_DIRECTORY"] = str(ROOT / "var/cache" / self.last("CacheDirectory"))
        if self.keys.get("LoadCredential"):
            found["CREDENTIALS_DIRECTORY"] = str(self.credentials())
        return found

    def credentials(self) -> Path:
        """Copies of them, as systemd makes for the service alone."""
        folder = ROOT / "run/credentials" / self.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for value in self.keys["LoadCredential"]:
            name, _, source = value.partition(":")
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_bytes(Path(source).read_bytes())
            (folder / name).chmod(0o400)
        return folder

    def limits(self) -> None:
        """In the child, before its program."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = min(int(self.last("LimitNOFILE", "1024")), most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        os.umask(int(self.last("UMask", "0022"), 8))
        libc = ctypes.CDLL(None)
        if self.last("NoNewPrivileges") == "yes":
            libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if self.last("MemoryDenyWriteExecute") == "yes":
            libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # from Linux 6.3; elsewhere nothing changes

    def start(self, line: str, **more: object) -> subprocess.Popen[bytes]:
        held = str(self.credentials()) if self.keys.get("LoadCredential") else "%d"
        words = [
            word.replace("%d/", f"{held}/").replace("$$", "$").replace("%%", "%")
            for word in shlex.split(line)
        ]
        for key, place in (("RuntimeDirectory", "run"), ("CacheDirectory", "var/cache")):
            if self.last(key):
                (ROOT / place / self.last(key)).mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            words,
            env=self.environment(),
            cwd=self.last("WorkingDirectory", "/"),
            stdin=subprocess.DEVNULL,
            preexec_fn=self.limits,
            start_new_session=True,
            **more,  # type: ignore[call-overload]
        )


def keep(name: str) -> None:
    """Runs a service until SIGTERM; starts it again as its unit says."""
    unit, stopping, child = Unit(name), False, None

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    def reload(*_: object) -> None:
        if child is not None and unit.last("ExecReload"):
            os.kill(child.pid, signal.SIGHUP)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, reload)
    restarts = RUN / f"{name}.restarts"
    restarts.write_text("0")
    while not stopping:
        if any(unit.start(line).wait() for line in unit.keys.get("ExecStartPre", [])):
            print(f"{name}: ExecStartPre failed", flush=True)
        else:
            child = unit.start(unit.last("ExecStart"))
            while child.poll() is None and not stopping:
                stopping = stopping or not _owner_lives()
                time.sleep(POLL_S)
            _end(unit, child)
            if unit.last("ExecStopPost"):
                unit.start(unit.last("ExecStopPost").removeprefix("-")).wait()
            print(f"{name}: ended with {child.returncode}", flush=True)
        if stopping or unit.last("Restart") != "always":
            break
        restarts.write_text(str(int(restarts.read_text()) + 1))
        time.sleep(_seconds(unit.last("RestartSec", "100ms")))
    (RUN / f"{name}.pid").unlink(missing_ok=True)


def _seconds(words: str) -> float:
    return float(words.removesuffix("ms")) / 1000 if words.endswith("ms") else float(words)


def _end(unit: Unit, child: subprocess.Popen[bytes]) -> None:
    """Stops what still runs and what is left behind, as systemd does also when a service ends by itself."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(float(unit.last("TimeoutStopSec", "90")))
    except subprocess.TimeoutExpired:
        print(f"{unit.name}: killed", flush=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if unit.last("RuntimeDirectory"):
        shutil.rmtree(ROOT / "run" / unit.last("RuntimeDirectory"), ignore_errors=True)


def _owner_lives() -> bool:
    return OWNER == 0 or Path(f"/proc/{OWNER}").exists()


def _keeper(name: str) -> int:
    """The pid of the process that keeps `name`; 0 for none."""
    try:
        pid = int((RUN / f"{name}.pid").read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return 0
    return pid


def start(name: str) -> None:
    if not name.endswith(".service") or _keeper(name):
        Unit(name)
        return
    unit = Unit(name)
    if unit.last("Type") == "oneshot":
        for line in unit.keys.get("ExecStart", []):
            failed = unit.start(line.replace("/nft -f", "/nft -c -f")).wait()  # this machine's rules stay
            if failed and "/nft" not in line:
                sys.exit(f"Job for {name} failed.")
        return
    RUN.mkdir(parents=True, exist_ok=True)
    (RUN / f"{name}.restarts").write_text("0")
    with (RUN / f"{name}.log").open("ab") as log:
        kept = subprocess.Popen(
            [sys.executable, __file__, "keep", name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (RUN / f"{name}.pid").write_text(str(kept.pid))


def stop(name: str) -> None:
    pid = _keeper(name)
    if not pid:
        return
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():  # its pid file goes first, the process a moment later
        time.sleep(POLL_S)


def main(verb: str, *words: str) -> int:
    names = [word for word in words if not word.startswith("-")]
    if verb == "show":
        path = RUN / f"{names[0]}.restarts"
        print(path.read_text() if path.exists() else "0")
    elif verb == "is-active":
        return 0 if _keeper(names[0]) else 3
    elif verb == "keep":
        keep(names[0])
    elif verb in ("start", "restart", "stop") or (verb == "disable" and "--now" in words):
        for name in names:
            if verb != "start":
                stop(name)
            if verb in ("start", "restart"):
                start(name)
    elif verb == "reload":
        os.kill(_keeper(names[0]), signal.SIGHUP)
    elif verb == "enable":
        for name in names:
            if "WantedBy" not in Unit(name).keys:
                sys.exit(f"unit {name} has no [Install] section")
    elif verb not in ("daemon-reload", "disable"):
        sys.exit(f"unit_runner knows no verb {verb}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
