"""What an operator meets after the installation: stated exposure is measured, certificates are renewed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.render.host_bundles import certificate, laid_out, orders, text_of
from tests.render.orders import DISTILLED, EMBEDDED, order

from servers import program
from sextant.render import render

KINDS = {
    **{kind: orders()[kind] for kind in ("embedded-nginx", "embedded-haproxy", "r1", "pair-nginx")},
    "distilled": orders()["distilled-finance"],
    "backup": order("on-prem", **EMBEDDED, continuity={"backup": {"repository": "/srv/b"}}),
    "compose": order("on-prem", **DISTILLED, delivery={"orchestration": "compose"}),
}


def test_the_stated_exposure_is_the_measured_one(tmp_path: Path) -> None:
    tool = program("systemd-analyze", "systemd", "/usr/bin")
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.split()[
        1
    ]
    slack = 0.0 if version == "252" else 0.5  # others weigh a little differently
    seen: dict[tuple[bool, str], tuple[float, float]] = {}
    for kind, made in KINDS.items():
        bundle = render(made)
        page = text_of(bundle, "OPERATING.md")
        rows = dict(re.findall(r"^\| (sextant\S*\.service) \| ([\d.]+) \|$", page, re.MULTILINE))
        units = [file for file in bundle.files if file.path.endswith(".service")]
        assert sorted(rows) == sorted(file.path.rpartition("/")[2] for file in units)
        for file in units:
            name = file.path.rpartition("/")[2]
            place = tmp_path / kind / name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(file.content)
            command = [tool, "security", "--offline=true", place]
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            measured, stated = float(re.findall(r"level for \S+: ([\d.]+)", said)[0]), float(rows[name])
            assert measured <= stated + slack, (kind, name, measured)
            which = (kind == "compose", re.sub("engine-.*", "engine", name))
            seen[which] = (stated, max(measured, seen.get(which, (0.0, 0.0))[1]))
    assert version != "252" or {stated for stated, most in seen.values() if stated != most} == set(), seen


def test_ports_and_drivers_are_named() -> None:
    bundle = render(KINDS["r1"])
    page = text_of(bundle, "OPERATING.md")
    assert "| 127.0.0.1:18000 | the gateway | this server |" in page or "the gateway | this server" in page
    assert "engines of deepseek-r1" in page
    assert any("persistence mode" in need.name for need in bundle.needs)
    assert any("time service" in need.name for need in bundle.needs)
    pair = render(KINDS["pair-nginx"])
    assert "VRRP" in text_of(pair, "OPERATING.md")
    assert any("does not have the address" in step.title for step in pair.upgrade)


class Box:
    """A server with a certificate, and a record of what systemctl was told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        laid_out(KINDS["embedded-nginx"], folder)
        certificate(self.root / "etc/sextant/tls")
        self.tls = self.root / "etc/sextant/tls"
        self.systemctl = folder / "systemctl"
        self.answer(0)

    def answer(self, status: int) -> None:
        self.systemctl.write_text(f'#!/bin/sh\necho "$*" >>{self.folder}/told\nexit {status}\n')
        self.systemctl.chmod(0o755)

    def renew(self, folder: Path, *, key: str = "server.key") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "renew-certificate.sh", "--cert", folder / "server.pem", "--key", folder / key],
            env={**os.environ, "SEXTANT_ROOT": str(self.root), "SEXTANT_SYSTEMCTL": str(self.systemctl)},
            capture_output=True,
            text=True,
            check=False,
        )


def test_a_certificate_is_renewed_while_the_front_serves(tmp_path: Path) -> None:
    box, new = Box(tmp_path / "box"), tmp_path / "new"
    new.mkdir()
    certificate(new)
    before = (box.tls / "server.pem").read_bytes()
    done = box.renew(new, key="server.pem")
    assert done.returncode == 1 and "is not the key of" in done.stderr
    (new / "torn").mkdir()
    (new / "torn/server.pem").write_text("no certificate")
    (new / "torn/server.key").write_bytes((new / "server.key").read_bytes())
    assert "is no certificate" in box.renew(new / "torn").stderr
    box.answer(1)
    assert "the one before is in use again" in box.renew(new).stderr
    assert (box.tls / "server.pem").read_bytes() == before, "nothing changed so far"
    box.answer(0)
    done = box.renew(new)
    assert done.returncode == 0 and "The front uses the certificate that ends on" in done.stdout, done.stderr
    assert (box.tls / "server.pem").read_bytes() == (new / "server.pem").read_bytes()
    assert (box.tls / "server.key").stat().st_mode & 0o777 == 0o600
    assert (box.folder / "told").read_text().splitlines()[-1] == "reload sextant-front.service"
    assert {path.name for path in box.tls.iterdir()} == {"server.pem", "server.key", "server.pem.key"}
