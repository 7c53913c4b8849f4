"""Servers without a cluster: what runs where, with which arguments, and what is refused."""

from __future__ import annotations

import re
import shlex

import msgspec
import pytest
from tests.render.host_bundles import HOSTS, PAIR, TLS, orders, text_of, with_hosts
from tests.render.orders import DISTILLED, EMBEDDED, R1, order

from sextant.base.errors import Unsupported
from sextant.catalog import arguments
from sextant.render import render
from sextant.render.hosts.units import quoted
from sextant.spec.bundle import Bundle
from sextant.spec.document import Deployment, parse_document


def own_document(bundle: Bundle) -> Deployment:
    return parse_document(text_of(bundle, "sextant.yaml"))


def unit(bundle: Bundle, name: str, key: str) -> list[str]:
    """All values of a key of a unit."""
    return re.findall(rf"^{key}=(.*)$", text_of(bundle, f"systemd/{name}"), re.MULTILINE)


@pytest.mark.parametrize("kind", sorted(orders()))
def test_the_same_order_gives_the_same_bytes_and_every_started_unit_is_there(kind: str) -> None:
    made = orders()[kind]
    bundle = render(made)
    assert bundle == render(made)
    assert [file.path for file in bundle.files] == sorted(file.path for file in bundle.files)
    units = {file.path.removeprefix("systemd/") for file in bundle.files}
    started = [line.split() for line in text_of(bundle, "units.list").splitlines()]
    assert {name for _, name in started} <= units
    roles = re.findall(r"^roles=(.*)$", text_of(bundle, "settings.sh"), re.MULTILINE)[0].strip("'").split()
    assert {role for role, _ in started} <= {"all", *roles}


def test_callers_meet_the_front_and_the_gateway_stays_on_the_server() -> None:
    bundle = render(order("on-prem", **EMBEDDED, gateway=TLS))
    spec = own_document(bundle).spec
    assert (spec.gateway.host, spec.gateway.port, spec.gateway.tls) == ("127.0.0.1", 18443, None)
    assert spec.gateway.trusted_proxies == ("127.0.0.1/32",)
    front = text_of(bundle, "front/nginx.conf")
    assert "listen 8443 ssl http2;" in front and "server 127.0.0.1:18443" in front
    assert "ssl_protocols TLSv1.3;" in front and "TLSv1.2" not in front
    rules = text_of(bundle, "front/sextant.nft")
    assert "tcp dport { 8001, 18443 } counter drop" in rules and "8443," not in rules
    assert unit(bundle, "sextant.service", "IPAddressDeny") == ["any"]


def test_an_engine_is_started_as_the_catalogue_says_and_the_gateway_finds_it() -> None:
    made = orders()["distilled-finance"]
    bundle = render(made)
    (served,) = made.served
    assert served.option is not None
    serving = arguments.serving_of(made, served, model_path="/srv/sextant/models/r1-7b", in_container=False)
    serving = msgspec.structs.replace(
        serving, host="127.0.0.1", port=9100, command=("/opt/sextant-engines/vllm/bin/vllm", "serve")
    )
    name = "sextant-engine-r1-7b.service"
    (start,) = unit(bundle, name, "ExecStart")
    assert tuple(shlex.split(start)) == arguments.command(serving).argv
    visible = f"CUDA_VISIBLE_DEVICES={','.join(map(str, range(served.option.layout.count)))}"
    assert visible in unit(bundle, name, "Environment")
    assert "char-nvidia* rw" in unit(bundle, name, "DeviceAllow")
    (model,) = own_document(bundle).spec.served
    assert model.engine.kind == "remote"
    assert model.engine.base_url == "http://127.0.0.1:9100/v1"
    assert model.engine.api_key == "file:/etc/sextant/engine-key"
    assert name in unit(bundle, "sextant.service", "After")[0].split()


def test_the_pair_has_two_configurations_and_one_firewall() -> None:
    bundle = render(orders()["pair-nginx"])
    first, second = (text_of(bundle, f"hosts/server-{number}/keepalived.conf") for number in (0, 1))
    assert "unicast_src_ip 10.0.0.11" in first and "10.0.0.12\n" in first and "priority 150" in first
    assert "unicast_src_ip 10.0.0.12" in second and "10.0.0.11\n" in second and "priority 100" in second
    for text in (first, second):
        assert "weight" not in text and "fall 1" in text and "advert_int 0.1" in text
    assert unit(bundle, "sextant-standby.service", "Restart") == ["always"]
    rules = text_of(bundle, "front/sextant.nft")
    assert "ip saddr { 10.0.0.11, 10.0.0.12 } meta l4proto 112 accept" in rules
    assert "server 10.0.0.11:9200" in text_of(bundle, "front/nginx.conf"), "both reach the engine"
    assert any(need.name == "STORE_PASSWORD in /etc/sextant/secrets.env" for need in bundle.needs)


def test_no_secret_is_written() -> None:
    for made in orders().values():
        for file in render(made).files:
            assert not re.search(rb"(sk|sxadmin)-[a-z0-9]{20}|BEGIN [A-Z ]*PRIVATE KEY", file.content)


def test_a_changed_document_is_another_release() -> None:
    named = [
        re.findall(
            r"^release=(.*)$", text_of(render(order("on-prem", **EMBEDDED, **more)), "settings.sh"), re.M
        )
        for more in ({}, {}, {"observability": {"log_level": "debug"}})
    ]
    assert named[0] == named[1] != named[2]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({**EMBEDDED, "continuity": PAIR["continuity"]}, "needs a store that both servers share"),
        ({**DISTILLED, **PAIR}, "the first server of the pair is not known"),
        ({**with_hosts(DISTILLED, "one.example.com", HOSTS[1]), **PAIR}, "firewall rules hold no names"),
    ],
)
def test_what_servers_cannot_do_is_refused_with_the_reason(spec: dict[str, object], said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        render(order("on-prem", **spec))


def test_words_survive_systemd() -> None:
    assert quoted("--flag") == "--flag"
    assert quoted('{"a": 1}') == '"{\\"a\\": 1}"'
    assert quoted("50%") == "50%%"
    assert quoted("$HOME") == "$$HOME", "systemd would put a variable there"
    assert quoted("${ENGINE_LEADER}") == "${ENGINE_LEADER}", "this one it is to put there"


def test_r1_keeps_its_sixteen_accelerators_apart() -> None:
    made = order("on-prem", **with_hosts(R1, *HOSTS))
    (served,) = made.served
    assert served.option is not None
    bundle = render(made)
    asked = 0
    for file in bundle.files:
        for line in re.findall(rb"^Environment=.*CUDA_VISIBLE_DEVICES=([\d,]+)", file.content, re.MULTILINE):
            asked += len(line.split(b","))
    assert asked == served.option.count, "as many accelerators as the plan has"
