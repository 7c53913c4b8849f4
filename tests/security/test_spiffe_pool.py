"""Upstream connections to peers that are known by SPIFFE id: who is let through, and what rotates."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from spiffe_kit import DOMAIN, ENGINE, GATEWAY, Authority, Engine, Svid

from sextant.app.identity import IdentityWatch, KnownPeer
from sextant.app.probe import ProbeFailed, http_probe
from sextant.base.errors import Misconfigured, UpstreamUnavailable
from sextant.security.spiffe import Identity, NoIdentity, Peers
from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport.client import Pool

OTHER = f"spiffe://{DOMAIN}/ns/sextant/sa/other"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class Caller:
    """A pool with our identity, as a gateway worker has one."""

    def __init__(self, folder: Path, now_s: float = 0.0) -> None:
        self.registry = Registry()
        self.ahead_s = now_s
        self.peers = Peers(lambda: time.time() + self.ahead_s)
        self.pool = Pool(GatewayLimits(), self.registry, peers=self.peers)
        self.file = folder / "identity.json"
        self.watch = IdentityWatch(self.file, self.peers, self.pool.renew)
        self._folder = folder
        self._version = 0

    def become(self, svid: Svid, *authorities: Authority) -> None:
        """As the identity process writes it."""
        self._version += 1
        pem = self._folder / f"svid-{self._version}.pem"
        pem.write_bytes(svid.pem)
        identity = Identity(
            version=self._version,
            spiffe_id=svid.uri,
            svid_file=str(pem),
            expires_s=svid.leaf.not_valid_after_utc.timestamp(),
            bundles={each.domain: each.pem for each in authorities},
            rotations=self._version - 1,
        )
        temporary = self.file.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(identity))
        temporary.replace(self.file)
        self.watch.poll()

    async def ask(self, engine: Engine, peer_id: str = ENGINE) -> bytes:
        answer = await self.pool.send(f"{engine.base_url}#{peer_id}", b"POST", b"/v1/chat", (), b"{}")
        try:
            assert answer.status == 200
            return await answer.read(1 << 20)
        finally:
            answer.close()

    @property
    def refused(self) -> float:
        metric = self.registry["sextant_transport_upstream_peers_refused"]
        return float(metric._value.get())


async def test_both_show_who_they_are_and_no_name_of_a_host_matters(
    tmp_path: Path, authority: Authority
) -> None:
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY), authority)
    async with Engine(authority.svid(ENGINE), authority, tmp_path).running() as engine:
        assert await caller.ask(engine) == Engine.ANSWER
        assert await caller.ask(engine) == Engine.ANSWER
        assert [uri for uri, _ in engine.callers] == [GATEWAY], "the second request took the same connection"
        await http_probe(f"{engine.base_url}/v1/models", peer=KnownPeer(caller.watch, ENGINE))()
        caller.pool.close()
    assert caller.refused == 0


@pytest.mark.parametrize(
    ("uris", "names"),
    [
        ((OTHER,), ()),
        ((ENGINE, OTHER), ()),
        ((f"{ENGINE}/more",), ()),
        ((ENGINE.upper().replace("SPIFFE", "spiffe"),), ()),
        ((), ("localhost",)),
    ],
    ids=["somebody else", "two ids", "a longer path", "other letters", "no id, the right host"],
)
async def test_who_is_not_the_one_expected_hears_nothing(
    tmp_path: Path, authority: Authority, uris: tuple[str, ...], names: tuple[str, ...]
) -> None:
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY), authority)
    async with Engine(authority.svid(*uris, names=names), authority, tmp_path).running() as engine:
        with pytest.raises(UpstreamUnavailable):
            await caller.ask(engine)
        assert engine.requests == 0, "not a byte of the request went there"
        with pytest.raises(
            ProbeFailed, match=r"the peer is .*, expected spiffe://example\.org/ns/sextant/sa/engine"
        ):
            await http_probe(f"{engine.base_url}/v1/models", peer=KnownPeer(caller.watch, ENGINE))()
        assert engine.requests == 0
        caller.pool.close()
    assert caller.refused == 1


async def test_a_name_for_hosts_beside_the_id_changes_nothing(tmp_path: Path, authority: Authority) -> None:
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY), authority)
    svid = authority.svid(ENGINE, names=("elsewhere.example.org",))
    async with Engine(svid, authority, tmp_path).running() as engine:
        assert await caller.ask(engine) == Engine.ANSWER
        caller.pool.close()


async def test_an_authority_that_nobody_knows_vouches_for_nobody(
    tmp_path: Path, authority: Authority
) -> None:
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY), authority)
    stranger = Authority()  # calls itself by the same name
    async with Engine(stranger.svid(ENGINE), authority, tmp_path).running() as engine:
        with pytest.raises(UpstreamUnavailable):
            await caller.ask(engine)
        caller.pool.close()
    assert caller.refused == 1


async def test_the_certificate_of_a_peer_that_has_ended_is_refused(
    tmp_path: Path, authority: Authority
) -> None:
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY), authority)
    async with Engine(authority.svid(ENGINE, lasts_s=-60), authority, tmp_path).running() as engine:
        with pytest.raises(UpstreamUnavailable):
            await caller.ask(engine)
        caller.pool.close()
    assert caller.refused == 1


async def test_a_federated_domain_vouches_for_its_own_ids_alone(tmp_path: Path, authority: Authority) -> None:
    partner = Authority("partner.example")
    theirs = "spiffe://partner.example/engine"
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY), authority, partner)
    async with Engine(partner.svid(theirs), authority, tmp_path).running() as engine:
        assert await caller.ask(engine, theirs) == Engine.ANSWER
    async with Engine(partner.svid(ENGINE), authority, tmp_path).running() as engine:
        with pytest.raises(UpstreamUnavailable):
            await caller.ask(engine, ENGINE)
        caller.pool.close()
    assert caller.refused == 1


async def test_without_authorities_of_the_peers_domain_nobody_is_asked(
    tmp_path: Path, authority: Authority
) -> None:
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY), authority)
    with pytest.raises(NoIdentity, match=r"no authorities of its trust domain partner\.example"):
        caller.peers.context("spiffe://partner.example/engine")
    caller.become(authority.svid(GATEWAY))
    with pytest.raises(NoIdentity, match=r"no authorities of its trust domain example\.org"):
        caller.peers.context(ENGINE)


async def test_a_peer_is_never_asked_in_the_clear(tmp_path: Path, authority: Authority) -> None:
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY), authority)
    with pytest.raises(Misconfigured, match="has no TLS"):
        await caller.pool.send(f"http://127.0.0.1:1#{ENGINE}", b"GET", b"/", (), b"")


async def test_a_pool_without_an_identity_asks_no_such_peer() -> None:
    pool = Pool(GatewayLimits(), Registry())
    with pytest.raises(UpstreamUnavailable):
        await pool.send(f"https://127.0.0.1:1#{ENGINE}", b"GET", b"/", (), b"")


async def test_a_new_certificate_is_shown_from_the_next_connection_on_and_open_ones_finish(
    tmp_path: Path, authority: Authority
) -> None:
    caller = Caller(tmp_path)
    first, second = authority.svid(GATEWAY), authority.svid(GATEWAY)
    caller.become(first, authority)
    async with Engine(authority.svid(ENGINE), authority, tmp_path).running() as engine:
        await caller.ask(engine)
        engine.hold.clear()
        under_way = asyncio.create_task(caller.ask(engine))
        while engine.requests < 2:
            await asyncio.sleep(0.005)
        caller.become(second, authority)
        engine.hold.set()
        assert await under_way == Engine.ANSWER
        assert caller.pool.idle_connections == 0, "the old connection was not kept"
        assert await caller.ask(engine) == Engine.ANSWER
        serials = [serial for _, serial in engine.callers]
        assert serials == [first.leaf.serial_number, second.leaf.serial_number]
        caller.pool.close()


async def test_a_new_certificate_closes_what_lies_idle(tmp_path: Path, authority: Authority) -> None:
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY), authority)
    async with Engine(authority.svid(ENGINE), authority, tmp_path).running() as engine:
        await caller.ask(engine)
        assert caller.pool.idle_connections == 1
        caller.become(authority.svid(GATEWAY), authority)
        assert (caller.pool.idle_connections, caller.pool.connections) == (0, 0)
        caller.pool.close()


async def test_when_our_own_certificate_has_ended_nobody_is_asked_any_more(
    tmp_path: Path, authority: Authority
) -> None:
    caller = Caller(tmp_path)
    caller.become(authority.svid(GATEWAY, lasts_s=100), authority)
    async with Engine(authority.svid(ENGINE), authority, tmp_path).running() as engine:
        await caller.ask(engine)
        assert caller.peers.remark() == ""
        caller.ahead_s = 101.0
        caller.watch.poll()
        assert caller.pool.idle_connections == 0, "an open connection would still be believed"
        assert "no identity: the certificate of spiffe://example.org/ns/sextant/sa/gateway ended at" in (
            caller.peers.remark()
        )
        with pytest.raises(UpstreamUnavailable):
            await caller.ask(engine)
        with pytest.raises(ProbeFailed, match="no identity"):
            await http_probe(f"{engine.base_url}/v1/models", peer=KnownPeer(caller.watch, ENGINE))()
        caller.become(authority.svid(GATEWAY, lasts_s=1000), authority)
        assert await caller.ask(engine) == Engine.ANSWER, "a new one ends the outage"
        caller.pool.close()


async def test_an_engine_that_does_not_know_us_is_an_error_of_the_engine(
    tmp_path: Path, authority: Authority
) -> None:
    caller = Caller(tmp_path)
    caller.become(Authority().svid(GATEWAY), authority)
    async with Engine(authority.svid(ENGINE), authority, tmp_path).running() as engine:
        with pytest.raises(Exception, match="engine"):
            await caller.ask(engine)
        assert engine.requests == 0
        caller.pool.close()


def test_a_file_that_cannot_be_used_leaves_the_last_identity(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    peers = Peers()
    watch = IdentityWatch(tmp_path / "identity.json", peers)
    watch.poll()
    assert peers.remark() == "no identity: the Workload API has not been asked yet"
    pem = tmp_path / "svid.pem"
    pem.write_bytes(authority.svid(GATEWAY).pem)
    good = Identity(
        version=1,
        spiffe_id=GATEWAY,
        svid_file=str(pem),
        expires_s=time.time() + 60,
        bundles={DOMAIN: authority.pem},
    )
    for text in (
        msgspec.json.encode(good),
        b"{",
        msgspec.json.encode(msgspec.structs.replace(good, svid_file="/no")),
    ):
        (tmp_path / "new").write_bytes(text)
        (tmp_path / "new").replace(tmp_path / "identity.json")
        watch.poll()
        assert peers.identity == good and peers.remark() == ""
    assert caplog.text.count("the last one stays") == 2
