"""The state directory: permissions, lock, stale files, ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sextant.app.state import StateDir, check_port_free, reserve_port, write_private
from sextant.base.errors import Misconfigured


def test_directories_are_ours_alone(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "deep" / "state")
    state.prepare()
    for folder in (state.root, state.run, state.logs, state.secrets):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_open_permissions_are_closed(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.prepare()
    state.secrets.chmod(0o755)
    state.prepare()
    assert state.secrets.stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(Misconfigured, match=r"cannot be made: .*--state DIR"):
        StateDir(tmp_path / "state").prepare()


def test_a_path_too_long_for_the_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="too long for a Unix socket"):
        StateDir(tmp_path / ("x" * 120)).prepare()


def test_one_supervisor_at_a_time(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.prepare()
    assert state.holder() is None
    program = "import sys,time; from pathlib import Path; from sextant.app.state import StateDir\n"
    program += "s=StateDir(Path(sys.argv[1]))\nwith s.lock(): print('held',flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(state.root)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert state.holder() == other.pid
        with (
            pytest.raises(Misconfigured, match=rf"process {other.pid}.*sextant down") as raised,
            state.lock(),
        ):
            pass
        assert raised.value.code == "already_running"
        other.kill()
    assert state.holder() is None  # the kernel lets go of it however the process ends
    with state.lock():
        assert state.holder() == os.getpid()
    assert state.holder() is None


def test_stale_files_of_an_earlier_start_are_cleared(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.prepare()
    state.routes_file.write_text("{}")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(state.ledger_socket))
    stale.close()
    state.clear_run()
    assert list(state.run.iterdir()) == []


def test_private_files_are_whole_and_ours(tmp_path: Path) -> None:
    target = tmp_path / "secret"
    write_private(target, b"one")
    write_private(target, b"two")
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_taken_port_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            Misconfigured, match=rf"port {port} .*\(pid {os.getpid()}\).*--port PORT"
        ) as raised:
            check_port_free("127.0.0.1", port, "--port")
        assert raised.value.code == "port_in_use"
    check_port_free("127.0.0.1", port, "--port")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(Misconfigured, match="address of this machine"):
        check_port_free(host, 8000, "--port")


def test_a_reserved_port_is_served_only_by_who_shares_it() -> None:
    with reserve_port("127.0.0.1") as held:
        port = held.getsockname()[1]
        with (
            pytest.raises(OSError, match="Address already in use"),
            socket.create_server(("127.0.0.1", port)),
        ):
            pass
        with (
            socket.create_server(("127.0.0.1", port), reuse_port=True) as engine,
            socket.create_connection(("127.0.0.1", port), timeout=2),
        ):
            engine.settimeout(2)
            engine.accept()[0].close()  # it came to the engine, not to the socket that only holds the port
