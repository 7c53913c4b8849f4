"""Bundles of servers without a cluster, in enough kinds, and a place where their files can be checked.

A unit names programs by where they will be installed; validators want to see them. `laid_out` moves the
paths of an installation below a folder and puts empty programs where none are.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.render.orders import DISTILLED, EMBEDDED, R1, order

from sextant.render import render
from sextant.spec.bundle import Bundle
from sextant.spec.rendering import Order

HOSTS = ["10.0.0.11", "10.0.0.12"]
TLS = {"host": "0.0.0.0", "port": 8443, "tls": {"cert_file": "/x/server.pem", "key_file": "/x/server.key"}}
HSM = {
    "module": "/usr/lib/softhsm/libsofthsm2.so",
    "token": "front",
    "pin": "file:/etc/sextant/hsm-pin",
    "tls_key": "front",
    "sealing_key": "sealing",
    "environment": {"SOFTHSM2_CONF": "/etc/softhsm/softhsm2.conf"},
    "folders": ["/var/lib/softhsm/tokens"],
    "group": "softhsm",
}
PAIR = {
    "store": {
        "url": "postgresql://sextant@10.0.0.20/sextant?sslmode=verify-full",
        "password": "env:STORE_PASSWORD",
    },
    "continuity": {"standby": {"address": "10.0.0.10", "peer": "10.0.0.12"}},
}


def with_hosts(spec: dict[str, object], *hosts: str) -> dict[str, object]:
    """`spec` whose first site names its servers."""
    (site,) = spec["sites"]  # type: ignore[misc]
    return {**spec, "sites": [{**site, "hosts": list(hosts)}]}


def orders() -> dict[str, Order]:
    """One order for each thing that the builders can do."""
    pair = {**with_hosts(DISTILLED, *HOSTS), **PAIR}
    return {
        "embedded-nginx": order("on-prem", **EMBEDDED),
        "embedded-haproxy": order("on-prem", **EMBEDDED, gateway=TLS, delivery={"front": "haproxy"}),
        "r1": order("on-prem", **with_hosts(R1, *HOSTS)),
        "r1-sglang": order("on-prem", **{**with_hosts(R1, *HOSTS), "engine": {"kind": "sglang"}}),
        "distilled-finance": order("on-prem", **DISTILLED, profile="finance"),
        "triton": order("on-prem", **{**DISTILLED, "engine": {"kind": "triton"}}),
        "triton-trtllm": order(
            "on-prem",
            **{**DISTILLED, "engine": {"kind": "triton", "backend": "tensorrtllm", "precision": "modelopt"}},
        ),
        "trtllm": order("on-prem", **{**DISTILLED, "engine": {"kind": "trtllm", "precision": "modelopt"}}),
        "pair-nginx": order("on-prem", **pair),
        "pair-haproxy": order("on-prem", **pair, delivery={"front": "haproxy"}),
        "hsm": order("on-prem", **EMBEDDED, profile="finance", security={"hsm": HSM}),
        "hsm-device": order(
            "on-prem", **EMBEDDED, security={"hsm": {**HSM, "devices": ["/dev/bus/usb/001/002"]}}
        ),
        "edge": order("edge", **EMBEDDED),
        "edge-tls": order("edge", **EMBEDDED, gateway=TLS),
    }


def text_of(bundle: Bundle, path: str) -> str:
    """One file of a bundle."""
    (found,) = [file for file in bundle.files if file.path == path]
    return found.content.decode()


def laid_out(made: Order, folder: Path) -> Path:
    """The bundle of that order on disk, with paths moved below `folder`, a certificate and programs."""
    root = folder / "root"
    for file in render(made).files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = re.sub(
            r"(?<![\w.])/(opt|etc|var/lib|run)/sextant", rf"{root}/\1/sextant", file.content.decode()
        )
        path.write_text(text)
        if file.executable:
            path.chmod(0o755)
    for name in ("etc/sextant/tls", "run/sextant", "var/lib/sextant"):
        (root / name).mkdir(parents=True)
    for unit in folder.glob("systemd/*.service"):
        for line in re.findall(r"^Exec\w+=(\S+)", unit.read_text(), re.MULTILINE):
            if line.startswith(str(root)):
                Path(line).parent.mkdir(parents=True, exist_ok=True)
                Path(line).write_text("#!/bin/sh\n")
                Path(line).chmod(0o755)
    return root


def certificate(folder: Path) -> None:
    """server.pem, server.key and the link that haproxy looks for."""
    key = ("-keyout", str(folder / "server.key"), "-out", str(folder / "server.pem"))
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    subprocess.run([*made, *key, "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
    (folder / "server.pem.key").symlink_to("server.key")
