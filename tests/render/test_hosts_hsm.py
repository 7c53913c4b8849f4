"""What a bundle says of an HSM: wired where the document names one, listed as a need where the profile wants
one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.render.host_bundles import HSM, text_of
from tests.render.orders import DISTILLED, EMBEDDED, order

from security.softhsm_kit import MODULE, SoftHsm, soft_hsm
from sextant.base.errors import Unsupported
from sextant.render import render
from sextant.spec.bundle import Bundle

SIGNS = {"module": MODULE, "token": "release", "pin": "file:/etc/release/pin", "signing_key": "release"}


def bundle(mode: str = "on-prem", **spec: object) -> Bundle:
    return render(order(mode, **EMBEDDED, **spec))


def test_nginx_and_its_unit_are_brought_to_the_key() -> None:
    made = bundle(security={"hsm": {**HSM, "serial": "0b30 afb0", "devices": ["/dev/hsm0"]}})
    key = "token=front;serial=0b30%20afb0;object=front;type=private"
    assert f'ssl_certificate_key "engine:pkcs11:pkcs11:{key}?pin-source=file:/run/credentials/' in text_of(
        made, "front/nginx.conf"
    )
    assert "env SOFTHSM2_CONF;" in text_of(made, "front/nginx.conf")
    assert f"MODULE_PATH = {HSM['module']}\n" in text_of(made, "front/openssl-hsm.cnf")
    for unit in ("sextant-front.service", "sextant.service"):
        text = text_of(made, f"systemd/{unit}")
        assert "DeviceAllow=/dev/hsm0 rw\n" in text and "PrivateDevices" not in text
        assert "SupplementaryGroups=softhsm\n" in text and "ReadWritePaths=/var/lib/softhsm/tokens\n" in text
    front = text_of(made, "systemd/sextant-front.service")
    assert "LoadCredential=hsm-pin:/etc/sextant/hsm-pin\n" in front
    assert front.index(" hsm check ") < front.index("nginx -t"), "the token is asked first, once"


def test_a_box_is_told_nothing_of_the_token_that_signs_its_releases() -> None:
    token = {"module": MODULE, "token": "release", "pin": "file:/etc/sextant/release-pin"}
    reached = {"group": "signers", "devices": ["/dev/hsm0"], "hosts": ["10.0.0.9"], "folders": ["/var/hsm"]}
    for mode in ("edge", "on-prem"):
        made = bundle(mode, security={"hsm": {**token, **reached, "signing_key": "release"}})
        unit = text_of(made, "systemd/sextant.service")
        assert "PrivateDevices=yes\n" in unit, "no device at all"
        for word in ("signers", "/dev/hsm0", "10.0.0.9", "/var/hsm"):
            assert word not in unit
        assert "release-pin" not in text_of(made, "settings.sh")
        assert not [need for need in made.needs if "release-pin" in need.name or need.kind == "hardware"]
        assert "hsm" not in text_of(made, "sextant.yaml")


def test_backups_reach_the_token_that_opens_the_stores_password() -> None:
    sealing = {**HSM, "sealing_key": "sealing", "devices": ["/dev/hsm0"]}
    store = {"url": "postgresql://sextant@10.0.0.9/sextant", "password": "sealed:/etc/sextant/store.sealed"}
    made = bundle(
        security={"hsm": sealing}, store=store, continuity={"backup": {"repository": "/mnt/backup"}}
    )
    unit = text_of(made, "systemd/sextant-backup.service")
    assert "SupplementaryGroups=softhsm\n" in unit and "DeviceAllow=/dev/hsm0 rw\n" in unit
    assert "hsm_group=softhsm\n" in text_of(made, "settings.sh")
    assert 'as_service "$program" db backup' in text_of(made, "backup.sh")


def test_a_network_hsm_may_be_reached_and_nothing_more() -> None:
    network = {"module": MODULE, "token": "t", "pin": "file:/etc/sextant/hsm-pin", "sealing_key": "s"}
    unit = "systemd/sextant.service"
    with_host = text_of(bundle(security={"hsm": {**network, "hosts": ["10.0.0.9"]}}), unit)
    assert "IPAddressAllow=localhost 10.0.0.9\n" in with_host


def test_the_profile_lists_it_as_a_need_until_the_document_names_one() -> None:
    def hardware(made: Bundle) -> list[str]:
        return [need.name for need in made.needs if need.kind == "hardware"]

    assert "a hardware security module" in hardware(bundle(profile="government"))
    assert "a hardware security module" not in hardware(bundle(profile="logistics"))
    wired = bundle(profile="finance", security={"hsm": HSM})
    assert "a hardware security module" not in hardware(wired)
    assert any(name.startswith("the token front") for name in hardware(wired))


@pytest.mark.parametrize(
    ("mode", "field", "hsm", "more"),
    [
        ("on-prem", "spec.security.hsm.tls_key", {}, {"delivery": {"front": "haproxy"}}),
        ("on-prem", "spec.security.hsm", {}, {"delivery": {"orchestration": "compose"}}),
        ("on-prem", "spec.security.hsm.pin", {"pin": "env:HSM_PIN"}, {}),
        ("edge", "spec.security.hsm.tls_key", {}, {}),
        ("private-cloud", "spec.security.hsm", {}, {}),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    mode: str, field: str, hsm: dict[str, str], more: dict[str, object]
) -> None:
    served = DISTILLED if mode == "private-cloud" else EMBEDDED
    with pytest.raises(Unsupported) as caught:
        render(order(mode, **served, security={"hsm": {**HSM, **hsm}}, **more))
    assert caught.value.field == field


def test_sealed_secrets_are_brought_to_the_server() -> None:
    hsm = {name: value for name, value in HSM.items() if name != "tls_key"}
    sealed = {"url": "postgresql://s@10.0.0.2/s", "password": "sealed:/etc/sextant/store.sealed"}
    made = bundle(store=sealed, security={"hsm": hsm})
    assert "secret_files='/etc/sextant/hsm-pin /etc/sextant/store.sealed'" in text_of(made, "settings.sh")
    typed = [line for step in made.install for line in step.commands]
    assert any("seal sextant.yaml -o /etc/sextant/store.sealed" in line for line in typed)
    assert "sudoedit /etc/sextant/store.sealed" not in typed, "nobody types it in clear"


def test_a_box_knows_nothing_of_the_hsm_that_signs_its_releases() -> None:
    made = bundle("edge", security={"hsm": SIGNS})
    assert "hsm" not in yaml.safe_load(text_of(made, "sextant.yaml"))["spec"].get("security", {})
    assert "hsm=yes" not in text_of(made, "settings.sh")
    uri = f"'pkcs11:token=release;object=release?module-path={MODULE}&pin-source=file:/etc/release/pin'"
    typed = [line for step in made.install for line in step.commands]
    assert f"./sign.sh {uri}" in typed and f"sextant hsm public-key --key {uri} -o ../release.pub" in typed


@pytest.mark.slow
def test_a_release_is_signed_by_a_key_in_a_token(tmp_path: Path) -> None:
    hsm = soft_hsm(tmp_path / "hsm", "release")
    assert hsm.sextant("hsm", "init", hsm.document("release", signing_key="release")).returncode == 0
    kit = tmp_path / "kit"
    for file in bundle("edge").files:
        (kit / file.path).parent.mkdir(parents=True, exist_ok=True)
        (kit / file.path).write_bytes(file.content)
    program = tmp_path / "sextant"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sextant.cli.main "$@"\n')
    program.chmod(0o755)
    uri = f"pkcs11:token=release;object=release?module-path={MODULE}&pin-source=file:{hsm.pin_file}"
    signed = _signed(hsm, kit, uri, program)
    assert signed.returncode == 0, signed.stderr
    public = tmp_path / "release.pub"
    hsm.sextant(
        "hsm", "public-key", "--document", hsm.document("release", signing_key="release"), "-o", public
    )
    library = f'cd {kit}; . ./settings.sh; . ./lib.sh; verify_kit {kit} {public} "the kit"'
    assert _shell(library).returncode == 0
    (kit / "README.md").write_text("changed")
    assert "nothing was changed" in _shell(library).stderr
    (kit / "SHA256SUMS").write_text((kit / "SHA256SUMS").read_text() + "\n")
    assert "does not fit the key" in _shell(library).stderr
    wrong = _signed(hsm, kit, uri.replace("object=release", "object=other"), program)
    assert wrong.returncode != 0 and "no key other" in wrong.stderr
    assert not (kit / "SHA256SUMS.sig").exists(), "no old signature stays"


def _signed(hsm: SoftHsm, kit: Path, key: str, program: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SEXTANT": str(program), "SOFTHSM2_CONF": str(hsm.conf)}
    return subprocess.run(
        ["sh", kit / "sign.sh", key], env=environment, capture_output=True, text=True, timeout=60
    )


def _shell(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-euc", text], capture_output=True, text=True, timeout=60)
