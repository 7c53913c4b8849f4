"""What the identity process writes down of what the Workload API says, and what becomes of it afterwards."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from spiffe_kit import DOMAIN, ENGINE, GATEWAY, Authority, WorkloadApi, workload_api

from sextant.security.spiffe import Identity, Peers
from sextant.security.spiffe_source import IdentityFile, Source


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[WorkloadApi]:
    with workload_api(tmp_path) as made:
        yield made


@contextlib.contextmanager
def running(address: str, file: Path, domain: str = DOMAIN) -> Iterator[None]:
    source = Source(address, IdentityFile(file, domain))
    thread = threading.Thread(target=source.run)
    thread.start()
    try:
        yield
    finally:
        source.stop()
        thread.join(10)
        assert not thread.is_alive()


def until(file: Path, wanted: Callable[[Identity], bool]) -> Identity:
    deadline = time.monotonic() + 15
    found = Identity(version=0)
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            found = msgspec.json.decode(file.read_bytes(), type=Identity)
            if wanted(found):
                return found
        time.sleep(0.005)
    raise AssertionError(f"waited in vain; the file says {found}")


def test_what_is_given_is_written_for_its_owner_alone(
    api: WorkloadApi, authority: Authority, tmp_path: Path
) -> None:
    partner = Authority("partner.example")
    svid = authority.svid(GATEWAY)
    api.give(svid, authority, partner)
    file = tmp_path / "identity.json"
    with running(api.address, file):
        found = until(file, lambda said: bool(said.spiffe_id))
    assert (found.spiffe_id, found.rotations, found.reason) == (GATEWAY, 0, "")
    assert found.expires_s == svid.leaf.not_valid_after_utc.timestamp()
    assert found.bundles == {DOMAIN: authority.pem, "partner.example": partner.pem}
    key = Path(found.svid_file)
    assert key.read_bytes() == svid.pem
    assert {stat.S_IMODE(each.stat().st_mode) for each in (file, key)} == {0o600}
    peers = Peers()
    peers.take(found)
    assert peers.remark() == ""
    assert peers.context(ENGINE) is not peers.context("spiffe://partner.example/engine")


def test_each_new_certificate_is_a_new_file_and_old_keys_go(
    api: WorkloadApi, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "identity.json"
    svids = [authority.svid(GATEWAY) for _ in range(4)]
    api.give(svids[0], authority)
    with running(api.address, file):
        files = []
        for number, svid in enumerate(svids):
            api.give(svid, authority)
            found = until(file, lambda said, wanted=number: said.rotations == wanted)  # type: ignore[misc]
            assert Path(found.svid_file).read_bytes() == svid.pem
            files.append(found.svid_file)
        until(file, lambda _: sorted(map(str, tmp_path.glob("svid-*.pem"))) == sorted(files[-2:]))
        other = Authority()
        api.give(svids[-1], other)
        found = until(file, lambda said: said.bundles[DOMAIN] == other.pem)
        assert found.rotations == 3, "other authorities are no other certificate"


def test_a_workload_api_that_goes_away_leaves_the_last_certificate_and_says_why(
    api: WorkloadApi, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "identity.json"
    api.give(authority.svid(GATEWAY), authority)
    with running(api.address, file):
        first = until(file, lambda said: bool(said.spiffe_id))
        api.stop()
        alone = until(file, lambda said: bool(said.reason))
        assert (alone.svid_file, alone.expires_s) == (first.svid_file, first.expires_s)
        assert alone.reason.startswith(f"{api.address}: ")
        assert Path(alone.svid_file).exists()
        second = authority.svid(GATEWAY)
        api.give(second, authority)
        api.start()
        back = until(file, lambda said: said.rotations == 1)
        assert back.reason == ""
        assert Path(back.svid_file).read_bytes() == second.pem


def test_a_process_that_starts_again_keeps_what_the_one_before_it_was_given(
    api: WorkloadApi, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "identity.json"
    api.give(authority.svid(GATEWAY), authority)
    with running(api.address, file):
        first = until(file, lambda said: bool(said.spiffe_id))
    api.stop()
    with running(api.address, file):
        alone = until(file, lambda said: bool(said.reason))
        assert (alone.svid_file, alone.bundles) == (first.svid_file, first.bundles)
        api.give(authority.svid(GATEWAY), authority)
        api.start()
        assert until(file, lambda said: said.rotations == 1).svid_file != first.svid_file
    api.stop()
    with running(api.address, file, domain="another.example"):
        assert until(file, lambda said: bool(said.reason) and not said.svid_file).spiffe_id == ""
    file.write_bytes(b"half")
    with running(api.address, file):
        assert until(file, lambda said: bool(said.reason)).svid_file == ""


def test_a_certificate_that_has_ended_is_not_taken_over(
    api: WorkloadApi, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "identity.json"
    api.give(authority.svid(GATEWAY), authority)
    with running(api.address, file):
        first = until(file, lambda said: bool(said.spiffe_id))
    api.stop()
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(first, expires_s=time.time() - 1)))
    with running(api.address, file):
        assert until(file, lambda said: bool(said.reason)).svid_file == ""


def test_nobody_there_nothing_registered_and_another_domain_are_told_apart(
    api: WorkloadApi, authority: Authority, tmp_path: Path
) -> None:
    nowhere = tmp_path / "none" / "agent.sock"
    with running(f"unix://{nowhere}", tmp_path / "a.json"):
        found = until(tmp_path / "a.json", lambda said: bool(said.reason))
    assert found.reason.startswith(f"unix://{nowhere}: there is no such socket; is the agent running")
    api.deny()
    with running(api.address, tmp_path / "b.json"):
        found = until(tmp_path / "b.json", lambda said: bool(said.reason))
    assert "no certificate is registered for this process; register its id" in found.reason
    api.give(authority.svid(GATEWAY), authority)
    with running(api.address, tmp_path / "c.json", domain="another.example"):
        found = until(tmp_path / "c.json", lambda said: bool(said.reason))
    assert "expected an id of the trust domain another.example" in found.reason
    assert found.svid_file == ""
    peers = Peers()
    peers.take(found)
    assert peers.remark().startswith("no identity: unix://")


def test_it_goes_on_when_what_it_was_given_is_no_certificate(
    api: WorkloadApi, authority: Authority, tmp_path: Path
) -> None:
    broken = authority.svid(GATEWAY)
    broken.chain_der = b"garbage"
    api.give(broken, authority)
    file = tmp_path / "identity.json"
    with running(api.address, file):
        until(file, lambda said: bool(said.reason))
        api.give(authority.svid(GATEWAY), authority)
        assert until(file, lambda said: bool(said.spiffe_id)).reason == ""


def test_neither_gateway_nor_supervisor_imports_grpc() -> None:
    code = (
        "import sys, sextant.app.gateway_process, sextant.app.supervisor, sextant.app.identity_process\n"
        "print([name for name in ('grpc', 'spiffe', 'google.protobuf') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
