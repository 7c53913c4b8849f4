"""Machines of a test: network namespaces on one bridge, in a namespace of the test's own.

Nothing of it touches the host's network: the bridge is in a namespace too, and all of them vanish with the
processes that keep them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

_LOOPBACK_UP = "ip link set lo up && echo up && exec cat"


def why_not() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces on one bridge need root"
    if shutil.which("ip") is None:
        return "there is no `ip` (Debian package iproute2); run: make servers"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"no network namespace can be made here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(frozen=True)
class Machine:
    """One namespace, with `eth0` on the bridge."""

    name: str
    pid: int
    address: str = ""

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command is run by to be on this machine."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def run(self, *words: str) -> str:
        """What a command prints there; fails the test when it fails."""
        done = subprocess.run([*self.enter, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def has(self, address: str) -> bool:
        return f" {address}/" in self.run("ip", "-o", "address")


@dataclass(frozen=True)
class Network:
    """The bridge, whose own machine is `hub`, and the machines on it."""

    hub: Machine
    machines: dict[str, Machine]

    def link(self, name: str, state: str) -> None:
        """Pulls (`down`) or plugs (`up`) a machine's cable, at the machine."""
        self.machines[name].run("ip", "link", "set", "eth0", state)


@contextmanager
def network(hub_address: str, **addresses: str) -> Iterator[Network]:
    """A bridge with that address (`10.77.0.20/24`), and machines with theirs by name."""
    with ExitStack() as ended:
        hub = Machine("hub", ended.enter_context(_kept()), hub_address.partition("/")[0])
        hub.run("ip", "link", "add", "bridge0", "type", "bridge")
        hub.run("ip", "address", "add", hub_address, "dev", "bridge0")
        hub.run("ip", "link", "set", "bridge0", "up")
        machines = {}
        for name, address in addresses.items():
            machine = Machine(name, ended.enter_context(_kept()), address.partition("/")[0])
            peer = ("peer", "name", "eth0", "netns", str(machine.pid))
            hub.run("ip", "link", "add", name, "type", "veth", *peer)
            hub.run("ip", "link", "set", name, "master", "bridge0", "up")
            machine.run("ip", "address", "add", address, "dev", "eth0")
            machine.run("ip", "link", "set", "eth0", "up")
            machines[name] = machine
        yield Network(hub, machines)


@contextmanager
def _kept() -> Iterator[int]:
    """The pid of a process that keeps one more namespace."""
    keeper = subprocess.Popen(
        ["unshare", "--net", "setpriv", "--pdeathsig=KILL", "sh", "-c", _LOOPBACK_UP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    try:
        assert keeper.stdout.readline() == "up\n"
        yield keeper.pid
    finally:
        keeper.stdin.close()
        keeper.wait(20)
        keeper.stdout.close()
