"""A box and its centre, both as `sextant up` starts them: cut off, killed, reconciled; and falling back."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_and_centre import (
    SITE,
    Host,
    Line,
    ill_treated,
    line_to,
    reconciled,
    settled,
    until,
    use,
)
from sextant.app import host_check
from sextant.spec.sites import ForwardStatus
from stack_under_test import Stack, sextant, stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: box}}
spec:
  mode: edge
  models:
    - {{name: sextant-nano, engine: {{kind: embedded}}}}
    - name: nano-centre
      engine:
        kind: remote
        base_url: http://127.0.0.1:{gateway}/v1
        api_key: file:{key}
        upstream_model: sextant-nano
  centre:
    url: http://127.0.0.1:{control}
    site: plant-7
    credential: file:{credential}
    fallback: {{when: when_unavailable, models: [{{name: sextant-nano, at_centre: nano-centre}}]}}
"""
MODEL = "sextant-nano"


def host(made: Stack) -> Host:
    def run(*words: str) -> str:
        done = sextant(*words, "--state", str(made.root))
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    return Host(made.root, made.port, run)


def secret(path: Path, value: str) -> Path:
    path.write_text(value)
    path.chmod(0o600)
    return path


@dataclass(frozen=True)
class Pair:
    box: Host
    centre: Host
    line: Line
    credential: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with stack() as made:
        centre = host(made)
        centre.run("tenant", "create", "plants", "--billing", "postpaid", "--plan", "standard-cny")
        centre.run("tenant", "create", "fallback", "--tier", "internal")
        key = json.loads(centre.run("key", "create", "--tenant", "fallback", "--json"))["key"]
        site = json.loads(centre.run("site", "create", SITE, "--tenant", "default=plants", "--json"))
        credential = secret(folder / "credential", site["credential"])
        with line_to(made.control_port) as line:
            document = folder / "box.yaml"
            document.write_text(
                DOCUMENT.format(
                    gateway=made.port,
                    control=line.port,
                    key=secret(folder / "key", key),
                    credential=credential,
                )
            )
            with stack(document=document) as running:
                box = host(running)
                box.run("tenant", "set", "default", "--billing", "postpaid", "--plan", "standard-cny")
                yield Pair(box, centre, line, credential)


def test_nothing_is_lost_and_nothing_counts_twice(pair: Pair) -> None:
    ill_treated(pair.box, pair.centre, pair.line, MODEL)
    reconciled(pair.box, pair.centre, "plants")
    assert pair.box.all("SELECT sum(cost_nano) FROM usage")[0][0] > 0
    (pair.box.state / "forward.json").unlink()
    pair.box.kill("forwarder")
    settled(pair.box)
    reconciled(pair.box, pair.centre, "plants")
    assert "has everything" in pair.box.run("status")


def test_a_revoked_credential_is_trouble_that_is_seen_and_ends_with_a_new_one(pair: Pair) -> None:
    pair.centre.run("site", "revoke", SITE)
    use(pair.box, 1, MODEL)

    def refused() -> ForwardStatus | None:
        now = pair.box.forwarding()
        return now if "401" in now.trouble and now.waiting_rows == 1 else None

    status = until(refused, "the refusal is seen")
    assert "credential" in status.trouble
    renewed = json.loads(pair.centre.run("site", "renew", SITE, "--json"))
    secret(pair.credential, renewed["credential"])
    pair.box.kill("forwarder")
    settled(pair.box)
    reconciled(pair.box, pair.centre, "plants")


def test_the_centre_answers_while_the_engine_is_away_and_the_request_is_paid_once(pair: Pair) -> None:
    cost = "SELECT coalesce(sum(cost_nano), 0), count(*) FROM usage WHERE tenant_id = 'fallback'"
    before = len(pair.box.rows())
    routes = json.loads((pair.box.state / "run/routes.json").read_bytes())
    engine = pair.box.process(f"engine-{routes['models'][0]['upstreams'][0]['id']}")
    os.kill(engine["pid"], signal.SIGKILL)
    status, headers, body = pair.box.chat("call 138-0013-8000: what is 2 + 3?", MODEL)
    assert status == 200, body
    assert headers["x-sextant-fallback"] == "nano-centre"
    assert headers["x-sextant-personal-data"] == "masked"
    settled(pair.box)
    fresh = [one for one in pair.box.rows() if one[4] == "nano-centre"]
    assert len(fresh) == 1 and len(pair.box.rows()) == before + 1 and fresh[0][15] > 0
    reconciled(pair.box, pair.centre, "plants")
    assert pair.centre.all(cost) == [(0, 1)], "the centre's own row of it costs nothing"


def test_metrics_tell_of_the_line(pair: Pair) -> None:
    control = json.loads((pair.box.state / "run/status.json").read_bytes())["control_url"]
    connection = http.client.HTTPConnection(control.removeprefix("http://"), timeout=20)
    admin = (pair.box.state / "secrets/admin").read_text().strip()
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {admin}"})
    text = connection.getresponse().read().decode()
    connection.close()
    assert "\nsextant_forward_waiting_rows 0.0" in text
    assert "\nsextant_forward_last_success_timestamp_seconds 1." in text


def test_the_measurement_at_install_counts_only_what_the_box_itself_answers(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured() -> bool:
        url = f"http://127.0.0.1:{pair.box.port}"
        return not host_check.main(
            ["latency", "--url", url, "--state", str(pair.box.state), "--requests", "3"]
        )

    assert until(measured, "the engine is back")
    assert "\nsextant-nano: 3 requests of 4 tokens" in f"\n{capsys.readouterr().out}"
    routes = json.loads((pair.box.state / "run/routes.json").read_bytes())
    engine = pair.box.process(f"engine-{routes['models'][0]['upstreams'][0]['id']}")
    os.kill(engine["pid"], signal.SIGKILL)
    assert not measured()
    said = capsys.readouterr().err
    assert "nano-centre answered instead of sextant-nano" in said and "nothing was measured" in said
    settled(pair.box)
