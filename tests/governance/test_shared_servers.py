"""Redis as operators run it: behind TLS, with users, as a cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from shared_limits import admitted, ask, limiter, refused, until

from servers import Redis, free_port
from sextant.governance.limits.limiter import ScopeRules

TWO_OPEN = ScopeRules("key:two", concurrent_requests=2)
ACL = (
    "ACL SETUSER gateway on >of-gateways ~{sextant:sextant}:* "
    "+evalsha +script|load +info +exists +hello +client|setname "
    "+time +hget +hset +hmget +hdel +hexists +hgetall +del +zadd +zrem +zrange +zrangebyscore "
    "+sadd +srem +scard +pexpire +persist"
)
"""What the guide tells operators to give to the gateways' user."""


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """`ca.pem`, and `server.pem` with `server.key` for localhost, signed by it."""
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    _run(f"{make} -keyout ca.key -out ca.pem", tmp_path)
    _run(
        f"{make} -keyout server.key -out server.pem -CA ca.pem -CAkey ca.key "
        "-addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE",
        tmp_path,
    )
    return tmp_path


async def test_tls_with_a_private_authority(
    private_redis: Callable[..., Redis], certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    port = free_port()
    texts = {name: (certificates / name).read_text() for name in ("ca.pem", "server.pem", "server.key")}
    server = Redis(tls_port=str(port), tls_auth_clients="no")
    for name, text in texts.items():  # where the server's own user may read them
        (server.folder / name).write_text(text)
        (server.folder / name).chmod(0o644)
    server.options |= {
        "tls-cert-file": "server.pem",
        "tls-key-file": "server.key",
        "tls-ca-cert-file": "ca.pem",
    }
    try:
        server.start()
        authority = str(certificates / "ca.pem")
        async with limiter(f"rediss://localhost:{port}", warm=False, ca_file=authority) as one:
            await until(lambda: not one.trouble)
            await admitted(one, ask(TWO_OPEN))
        async with limiter(f"rediss://localhost:{port}", warm=False, timeout_s=2.0) as one:
            await until(lambda: "certificate verify failed" in one.trouble)  # nobody vouches for it
        async with limiter(f"rediss://127.0.0.1:{port}", warm=False, timeout_s=2.0, ca_file=authority) as one:
            await until(lambda: "certificate" in one.trouble)  # the name is another's
    finally:
        server.remove()


async def test_a_user_with_no_more_rights_than_needed(
    redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert redis_server.cli(*ACL.split()) == "OK"
    monkeypatch.setenv("LIMITS_PASSWORD", "of-gateways")
    access = {"username": "gateway", "password_ref": "env:LIMITS_PASSWORD"}
    async with limiter(redis_server.url, **access) as one:
        holds = [await admitted(one, ask(TWO_OPEN)) for _ in range(2)]
        await refused(one, ask(TWO_OPEN))
        one.settle(holds[0], 1)
        await until(lambda: not one._ends)
        redis_server.cli("SCRIPT", "FLUSH")
        await admitted(one, ask(TWO_OPEN))
        redis_server.restart()  # which has forgotten the user
        await until(lambda: "WRONGPASS" in one.trouble or "invalid username" in one.trouble)


@pytest.mark.slow
async def test_a_cluster_is_asked_where_our_slot_is(private_redis: Callable[..., Redis]) -> None:
    buses = [free_port(), free_port()]
    owner, other = (private_redis(cluster_enabled="yes", cluster_port=str(bus)) for bus in buses)
    owner.cli("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    owner.cli("CLUSTER", "MEET", "127.0.0.1", str(other.port), str(buses[1]))
    await until(lambda: "cluster_state:ok" in other.cli("CLUSTER", "INFO"), timeout_s=20)
    async with limiter(other.url, warm=False) as one:
        await until(lambda: not one.trouble)
        await admitted(one, ask(TWO_OPEN))
        await admitted(one, ask(TWO_OPEN))
        await refused(one, ask(TWO_OPEN))
        assert owner.cli("HGET", "{sextant:sextant}:s:key:two", "n") == "2"


def _run(command: str, folder: Path) -> None:
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
