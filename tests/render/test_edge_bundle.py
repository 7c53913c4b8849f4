"""One box: what is signed, what is watched, where models come from, and what is refused."""

from __future__ import annotations

import re

import msgspec
import pytest
import yaml
from tests.render.host_bundles import PAIR, TLS, orders, text_of
from tests.render.orders import DISTILLED, EMBEDDED, order

from sextant.base.errors import BadDocument, Unsupported
from sextant.render import render
from sextant.spec.document import parse_document


def test_the_box_listens_as_the_document_says_with_its_own_certificate() -> None:
    spec = parse_document(text_of(render(orders()["edge-tls"]), "sextant.yaml")).spec
    assert spec.gateway.tls is not None
    assert (spec.gateway.host, spec.gateway.port) == ("0.0.0.0", 8443)
    assert str(spec.gateway.tls.cert_file) == "/etc/sextant/tls/server.pem"


def test_a_model_of_the_user_comes_from_the_signed_folder() -> None:
    spec = {**EMBEDDED, "model": {"name": "mine", "source": "/srv/models/mine-q4.gguf"}}
    bundle = render(order("edge", **spec))
    assert "models=mine-q4.gguf\n" in text_of(bundle, "settings.sh")
    assert "signed=yes\n" in text_of(bundle, "settings.sh")
    (model,) = parse_document(text_of(bundle, "sextant.yaml")).spec.served
    assert str(model.source) == "/opt/sextant/current/models/mine-q4.gguf"
    assert any(need.name == "models/mine-q4.gguf in this folder" for need in bundle.needs)


def test_the_watchdog_runs_and_the_install_measures() -> None:
    bundle = render(orders()["edge"])
    assert "all sextant-watchdog.timer" in text_of(bundle, "units.list").splitlines()
    assert "measure=yes\n" in text_of(bundle, "settings.sh")
    timer = text_of(bundle, "systemd/sextant-watchdog.timer")
    assert re.search(r"^OnUnitActiveSec=15s$", timer, re.MULTILINE)


def test_what_is_not_there_is_said() -> None:
    notes = " ".join(render(orders()["edge"]).notes)
    assert "no spec.centre" in notes and "spec.centre.metrics is not set" in notes


CENTRE = {
    "url": "https://10.0.0.9:8001",
    "site": "plant-7",
    "credential": "file:/etc/sextant/centre-credential",
    "ca_file": "/srv/ca.pem",
}


def test_the_box_knows_its_centre() -> None:
    bundle = render(order("edge", **EMBEDDED, centre=CENTRE))
    centre = parse_document(text_of(bundle, "sextant.yaml")).spec.centre
    assert centre is not None and centre.url == "https://10.0.0.9:8001"
    assert (centre.site, centre.ca_file) == ("plant-7", "/etc/sextant/tls/centre.pem")
    needs = {need.name for need in bundle.needs}
    assert {"/etc/sextant/centre-credential", "/etc/sextant/tls/centre.pem"} <= needs
    assert "the site plant-7 at https://10.0.0.9:8001" in needs
    assert "10.0.0.9:8001" in bundle.diagram
    assert any("plant-7" in step.why for step in bundle.verify)
    assert any("no fallback" in note for note in bundle.notes)


METRICS = {
    "url": "https://prometheus.example.com/api/v1/write",
    "credential": "file:/etc/sextant/metrics-credential",
    "ca_file": "/srv/metrics.pem",
}


def test_the_box_sends_its_metrics_to_the_centre() -> None:
    bundle = render(order("edge", **EMBEDDED, centre={**CENTRE, "metrics": METRICS}))
    config = yaml.safe_load(text_of(bundle, "metrics/prometheus.yml"))
    assert config["global"]["external_labels"] == {"site": "plant-7"}
    assert [job["job_name"] for job in config["scrape_configs"]] == ["gateway", "control", "metrics-agent"]
    unit = text_of(bundle, "systemd/sextant-metrics.service")
    assert "-remoteWrite.url=https://prometheus.example.com/api/v1/write " in unit
    for credential in (
        "control:/etc/sextant/metrics-token",
        "centre:/etc/sextant/metrics-credential",
        "authorities:/etc/sextant/tls/metrics.pem",
    ):
        assert f"LoadCredential={credential}\n" in unit
    assert "all sextant-metrics.service" in text_of(bundle, "units.list").splitlines()
    assert "programs='openssl sha256sum vmagent'\n" in text_of(bundle, "settings.sh")
    assert {"/usr/bin/vmagent", "/etc/sextant/tls/metrics.pem"} <= {need.name for need in bundle.needs}
    assert "prometheus.example.com" in bundle.diagram
    served = parse_document(text_of(bundle, "sextant.yaml")).spec.centre
    assert served is not None and served.metrics is not None
    assert served.metrics.ca_file == "/etc/sextant/tls/metrics.pem"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"credential": "env:METRICS"}, "is not in a file"),
        ({"url": "http://prometheus.example.com/api/v1/write"}, "has no TLS"),
    ],
)
def test_metrics_that_could_leak_are_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(BadDocument, match=said):
        order("edge", **EMBEDDED, centre={**CENTRE, "metrics": {**METRICS, **change}})


def test_metrics_stay_where_nothing_else_is_said() -> None:
    bundle = render(order("edge", **EMBEDDED, centre=CENTRE))
    assert not [file.path for file in bundle.files if "metrics" in file.path]
    assert any("spec.centre.metrics is not set" in note for note in bundle.notes)


def test_the_agent_reads_engines_that_are_units_of_their_own() -> None:
    bundle = render(order("edge", **DISTILLED, centre={**CENTRE, "metrics": METRICS}))
    jobs = yaml.safe_load(text_of(bundle, "metrics/prometheus.yml"))["scrape_configs"]
    engines = [job for job in jobs if job["job_name"].startswith("engine-")]
    assert [job["static_configs"] for job in engines] == [[{"targets": ["127.0.0.1:9100"]}]]
    assert engines[0]["metrics_path"] == "/metrics"


def test_the_box_may_reach_its_centre_where_packets_are_restricted() -> None:
    bundle = render(order("edge", **EMBEDDED, profile="finance", centre=CENTRE))
    unit = text_of(bundle, "systemd/sextant.service")
    assert "IPAddressDeny=any" in unit and "IPAddressAllow=localhost 10.0.0.9" in unit


def test_a_centre_is_for_boxes_alone() -> None:
    with pytest.raises(Unsupported, match=r"spec\.centre is for a box"):
        render(order("container", **EMBEDDED, centre=CENTRE))


def test_a_box_keeps_its_state_itself() -> None:
    with pytest.raises(Unsupported, match="keeps its state itself"):
        render(order("edge", **EMBEDDED, store=PAIR["store"]))


def test_a_box_has_one_replica_of_each_model() -> None:
    made = order("edge", **DISTILLED)
    (served,) = made.served
    assert served.option is not None
    layout = msgspec.structs.replace(served.option.layout, dp=2)
    doubled = msgspec.structs.replace(served, option=msgspec.structs.replace(served.option, layout=layout))
    with pytest.raises(Unsupported, match="an edge box is one server with one replica"):
        render(msgspec.structs.replace(made, served=(doubled,)))


def test_edge_tls_needs_a_certificate() -> None:
    with_tls = {need.name for need in render(order("edge", **EMBEDDED, gateway=TLS)).needs}
    without = {need.name for need in render(order("edge", **EMBEDDED)).needs}
    assert with_tls - without == {"a TLS certificate and its key"}
