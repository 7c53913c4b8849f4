"""The servers that other tests lean on: real, flushing, killable, and missing ones named with the way out."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import servers
from servers import Postgres, Redis

pytestmark = pytest.mark.slow


def test_postgres_is_durable_and_survives_a_kill(postgres: Postgres, database: str) -> None:
    name = database.rpartition("/")[2]
    assert postgres.sql("SHOW fsync") == "on"
    postgres.sql("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)", name)
    before = postgres.pid
    postgres.restart()
    assert postgres.pid != before
    assert postgres.sql("SELECT id FROM kept", name) == "7"


def test_each_test_gets_a_database_of_its_own(postgres: Postgres, database: str) -> None:
    assert postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database[-17:]) == "0"


def test_redis_is_emptied_and_forgets_when_killed(redis_server: Redis) -> None:
    assert redis_server.cli("DBSIZE") == "0"
    redis_server.cli("SET", "a", "1")
    redis_server.restart()
    assert redis_server.cli("DBSIZE") == "0"


def test_a_durable_redis_keeps_what_it_acknowledged(private_redis: Callable[..., Redis]) -> None:
    server = private_redis(durable=True, password="secret")
    server.cli("SET", "a", "1")
    server.restart()
    assert server.cli("GET", "a") == "1"


def test_a_frozen_server_is_silent_and_goes_on(redis_server: Redis) -> None:
    with redis_server.frozen():
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            _ping(redis_server)
        assert time.monotonic() - began < 5
    assert redis_server.cli("PING") == "PONG"


def test_servers_are_not_root_and_end_with_us(redis_server: Redis, postgres: Postgres) -> None:
    for pid in (redis_server.pid, postgres.pid):
        if os.geteuid() == 0:
            assert Path(f"/proc/{pid}").stat().st_uid == servers.NOBODY


def test_a_missing_program_is_a_failure_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(pytest.fail.Exception, match="make servers"):
        servers.program("redis-server", "redis-server", "/nonexistent")


def _ping(server: Redis) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=0.3) as link:
        link.sendall(b"PING\r\n")
        link.recv(16)
