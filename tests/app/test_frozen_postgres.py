"""A deployment whose PostgreSQL stands still: no silence, no row lost or doubled, and it comes back alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from servers import PASSWORD, Postgres
from stack_under_test import Stack, stack, until

pytestmark = pytest.mark.slow

DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {name: frozen}
spec:
  model: {name: sextant-nano}
  engine: {kind: embedded, slots: 2, threads: 1}
"""
PATIENCE_S = 30.0


def ready(of: Stack) -> int:
    return of.ask("GET", "/ready").status


def test_a_server_that_stands_still(
    postgres: Postgres, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests under way and new ones get 503, which says to come back; every answer has its row."""
    monkeypatch.setenv("BOOKS_PASSWORD", PASSWORD)
    url = database.replace(f":{PASSWORD}", "")
    path = tmp_path / "document.yaml"
    path.write_text(DOCUMENT + f"  store: {{url: '{url}', password: 'env:BOOKS_PASSWORD'}}\n")
    with stack(document=path, root=tmp_path / "s") as one:
        assert one.chat().status == 200
        with postgres.frozen():
            began_s = time.monotonic()
            under_way = one.chat()
            assert under_way.status == 503, under_way.body
            assert json.loads(under_way.body)["error"]["code"] == "ledger_unavailable"
            until(lambda: ready(one) == 503, "/ready is red")
            refused = one.chat()
            assert (refused.status, "retry-after" in {name.lower() for name in refused.headers}) == (
                503,
                True,
            )
            assert time.monotonic() - began_s < PATIENCE_S
        until(lambda: ready(one) == 200, "/ready is green again", PATIENCE_S)
        answered = one.chat()
        assert answered.status == 200
        assert one.stop() == 0
    name = url.rpartition("/")[2]
    rows = int(postgres.sql("SELECT count(*) FROM ledger.usage", name))
    distinct = int(postgres.sql("SELECT count(DISTINCT request_id) FROM ledger.usage", name))
    assert rows == distinct == 3, "two answers, and the one whose row was durable only later"
