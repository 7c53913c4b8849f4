"""Servers that run containers: what Docker Compose reads, who gets which accelerators, what is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.render.host_bundles import PAIR, TLS, laid_out, text_of, with_hosts
from tests.render.orders import DISTILLED, EMBEDDED, R1, order

from servers import program
from sextant.base.errors import Unsupported
from sextant.operations.verify.host_programs import systemd_security, systemd_verify
from sextant.operations.verify.running import Bench
from sextant.render import render
from sextant.spec.bundle import Bundle
from sextant.spec.document import parse_document

COMPOSE = {"orchestration": "compose"}
LARGE = [{"name": "hall", "accelerators": [{"name": "H100", "count": 16}], "hosts": ["10.0.0.1", "10.0.0.2"]}]
DOCKER_COMPOSE = Path(__file__).parents[2] / ".venv/bin/docker-compose"


def compose(bundle: Bundle) -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load(text_of(bundle, "compose.yaml"))
    return whole


def orders() -> dict[str, dict[str, Any]]:
    amd = [{"name": "hall", "accelerators": [{"name": "MI300X", "count": 8}]}]
    return {
        "embedded": {**EMBEDDED, "gateway": TLS},
        "haproxy": {**EMBEDDED, "gateway": TLS},
        "vllm": dict(DISTILLED),
        "replicas": {
            **DISTILLED,
            "workload": {"requests_per_s": 16.0, "input_tokens": 1000, "output_tokens": 500},
        },
        "sglang": {**DISTILLED, "engine": {"kind": "sglang"}},
        "triton": {**DISTILLED, "engine": {"kind": "triton"}},
        "triton-trtllm": {**DISTILLED, "engine": {"kind": "triton", "backend": "tensorrtllm"}},
        "trtllm": {**DISTILLED, "engine": {"kind": "trtllm"}},
        "amd": {**DISTILLED, "sites": amd},
    }


def bundle_of(kind: str) -> Bundle:
    delivery = {**COMPOSE, "front": "haproxy" if kind == "haproxy" else "nginx"}
    return render(order("on-prem", **orders()[kind], delivery=delivery))


@pytest.mark.parametrize("kind", sorted(orders()))
def test_docker_compose_reads_it(kind: str, tmp_path: Path) -> None:
    if not DOCKER_COMPOSE.exists():
        pytest.fail("Docker Compose is not in .venv/bin; run: make servers")
    bundle = bundle_of(kind)
    text = text_of(bundle, "compose.yaml").replace("/etc/sextant", str(tmp_path))
    (tmp_path / "compose.yaml").write_text(text)
    (tmp_path / "engine-key.env").write_text("ENGINE_API_KEY=of-the-tests\n")
    given = {"SEXTANT_IMAGE": "sextant-bank:1", "SEXTANT_USER": "1:1", "FRONT_USER": "2:2"}
    command = [DOCKER_COMPOSE, "--file", tmp_path / "compose.yaml", "config"]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    assert set(read["services"]) == set(compose(bundle)["services"])
    (tmp_path / "compose.yaml").write_text(text.replace("cap_drop:", "cap_dropped:", 1))
    bad = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert bad.returncode != 0 and "cap_dropped" in bad.stderr, "and it bites"


@pytest.mark.parametrize("kind", sorted(orders()))
def test_every_container_has_walls_and_bounds(kind: str) -> None:
    for name, service in compose(bundle_of(kind))["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] not in ("0", "0:0", "root"), name
        assert {"mem_limit", "pids_limit", "blkio_config", "healthcheck", "user"} <= set(service), name
        assert not service["image"].endswith(":latest"), name
        engine = name.startswith("engine-")
        assert set(service["networks"]) == ({"inside"} if engine else {"inside", "outside"}), name
        assert not engine or "ports" not in service, "nobody but the gateway talks to an engine"


def test_no_two_replicas_share_an_accelerator() -> None:
    bundle = bundle_of("replicas")
    services = compose(bundle)["services"]
    asked = [
        number
        for name, service in services.items()
        if name.startswith("engine-")
        for number in service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
    ]
    assert len(asked) > 1 and len(set(asked)) == len(asked)
    front = text_of(bundle, "front/nginx.conf")
    for name, service in services.items():
        if name.startswith("engine-"):
            assert f"server {service['networks']['inside']['ipv4_address']}:92" in front


def test_the_gateway_finds_its_engine_and_trusts_the_front_alone() -> None:
    bundle = bundle_of("vllm")
    services = compose(bundle)["services"]
    spec = parse_document(text_of(bundle, "sextant.yaml")).spec
    address = services["engine-r1-7b"]["networks"]["inside"]["ipv4_address"]
    assert spec.served[0].engine.base_url == f"http://{address}:9100/v1"  # type: ignore[union-attr]
    assert spec.gateway.trusted_proxies == (f"{services['front']['networks']['inside']['ipv4_address']}/32",)
    gateway = services["gateway"]["networks"]["inside"]["ipv4_address"]
    assert f"server {gateway}:{spec.gateway.port}" in text_of(bundle, "front/nginx.conf")
    assert all(port.startswith("127.0.0.1:") for port in services["gateway"]["ports"])
    assert services["gateway"]["secrets"] == ["engine-key"]


def test_amd_devices_are_mapped() -> None:
    services = compose(bundle_of("amd"))["services"]
    assert services["engine-r1-7b"]["devices"] == ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"]
    assert services["engine-r1-7b"]["environment"]["HIP_VISIBLE_DEVICES"] == "0"


def test_a_changed_service_is_another_unit() -> None:
    units = [
        text_of(
            render(order("on-prem", **DISTILLED, delivery=COMPOSE, **more)),
            "systemd/sextant-engine-r1-7b.service",
        )
        for more in ({}, {"observability": {"log_level": "debug"}})
    ]
    assert units[0] == units[1], "an engine whose service is the same runs on"
    other = {**DISTILLED, "engine": {"kind": "vllm", "args": ["--seed", "7"]}}
    assert (
        text_of(render(order("on-prem", **other, delivery=COMPOSE)), "systemd/sextant-engine-r1-7b.service")
        != units[0]
    )


@pytest.mark.parametrize("kind", ["embedded", "vllm"])
def test_the_units_pass_systemd(kind: str, tmp_path: Path) -> None:
    delivery = {**COMPOSE}
    root = laid_out(order("on-prem", **orders()[kind], delivery=delivery), tmp_path)
    tool = program("systemd-analyze", "systemd", "/usr/bin")
    bench = Bench(tmp_path, root, ())
    assert [said for _, said in systemd_verify(bench, tool, sorted(tmp_path.glob("systemd/*"))) if said] == []
    services = sorted(tmp_path.glob("systemd/*.service"))
    assert [said for _, said in systemd_security(bench, tool, services) if said] == []


def test_the_kit_names_every_image_and_the_python_of_the_one_that_is_built() -> None:
    bundle = bundle_of("vllm")
    images = text_of(bundle, "kit/images.txt")
    for service in compose(bundle)["services"].values():
        assert service["image"].startswith("${SEXTANT_IMAGE") or service["image"] in images
    assert "docker.io/library/python:" in images
    collect = text_of(bundle, "collect.sh")
    assert "python_version='3.13'" in collect and "manylinux_2_28_$(uname -m)" in collect


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({**with_hosts(DISTILLED, "10.0.0.11", "10.0.0.12"), **PAIR}, "a standby pair takes several servers"),
        (
            with_hosts(DISTILLED, "10.0.0.11", "10.0.0.12"),
            r"sites name \(10.0.0.11, 10.0.0.12\) takes several",
        ),
        ({**R1, "sites": LARGE}, "accelerators of its plan takes several servers"),
        ({**EMBEDDED, "continuity": {"backup": {"repository": "/srv/b"}}}, "backups by a timer run without"),
    ],
)
def test_what_containers_of_one_server_cannot_do_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        render(order("on-prem", **spec, delivery=COMPOSE))
