"""Sealed secrets: opened by the key in the token that sealed them, and by nothing else."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from security.softhsm_kit import SoftHsm, soft_hsm
from sextant.app.stores import secret_variables
from sextant.base.config import resolve_secret, sealed_variable
from sextant.base.errors import Misconfigured
from sextant.security import keys
from sextant.security.opening import open_hsm
from sextant.security.sealing import SECRET_BYTES, seal, unseal
from sextant.security.token import OpenToken, opened, place_of
from sextant.spec.document import load_document
from sextant.spec.security_sections import Hsm

SECRET = "sk-nobody-reads-this"


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "none"))
    return soft_hsm(tmp_path / "hsm", "main")


def _wraps_only(token: OpenToken) -> None:
    """A sealing key that may wrap and not encrypt, as some HSMs make theirs."""
    import pkcs11

    no = {pkcs11.Attribute.ENCRYPT: False, pkcs11.Attribute.DECRYPT: False}
    token.session.generate_key(
        pkcs11.KeyType.AES, 256, label="sealing", store=True, capabilities=0,
        template={**no, pkcs11.Attribute.WRAP: True, pkcs11.Attribute.UNWRAP: True},
    )  # fmt: skip


@pytest.mark.parametrize("way", ["aes-gcm", "aes-kwp", "rsa-oaep-sha1"])
def test_a_secret_is_opened_by_the_key_that_sealed_it(hsm: SoftHsm, tmp_path: Path, way: str) -> None:
    file = tmp_path / "secret.sealed"
    with opened(place_of(Hsm(**hsm.settings())), changes=True) as token:
        if way == "aes-kwp":
            _wraps_only(token)
        else:
            keys.make(token, "sealing", "sealing", rsa=way.startswith("rsa"))
        text = seal(token, "sealing", SECRET.encode())
        file.write_text(text)
        assert json.loads(text)["way"] == way
        assert SECRET not in text and base64.b64encode(SECRET.encode()).decode()[:12] not in text
        assert seal(token, "sealing", SECRET.encode()) != text, "another data key"
        assert unseal(token, "sealing", str(file)) == SECRET
        for name in ("wrapped", "nonce", "secret"):
            changed = json.loads(text)
            raw = bytearray(base64.b64decode(changed[name]))
            raw[-1] ^= 1
            changed[name] = base64.b64encode(raw).decode()
            file.write_text(json.dumps(changed))
            with pytest.raises(Misconfigured, match="does not open") as caught:
                unseal(token, "sealing", str(file))
            assert SECRET not in caught.value.message
    with opened(place_of(Hsm(**hsm.settings()))) as token:
        file.write_text(text)
        assert unseal(token, "sealing", str(file)) == SECRET, "in another session too"


def test_files_that_are_none_and_keys_of_others(hsm: SoftHsm, tmp_path: Path) -> None:
    file = tmp_path / "secret.sealed"
    with opened(place_of(Hsm(**hsm.settings())), changes=True) as token:
        keys.make(token, "sealing", "sealing")
        file.write_text(seal(token, "sealing", SECRET.encode()))
        for bad in (b"", b"x" * (SECRET_BYTES + 1)):
            with pytest.raises(Misconfigured, match="expected 1 to"):
                seal(token, "sealing", bad)
        for bad in (b"two\nlines", b"a\0b", b"\xff\xfe"):
            with pytest.raises(Misconfigured, match="is no single line of text") as refused:
                seal(token, "sealing", bad)
            assert "two" not in refused.value.message
        with pytest.raises(Misconfigured, match="cannot be read"):
            unseal(token, "sealing", str(tmp_path / "none"))
        (tmp_path / "plain").write_text(SECRET)
        with pytest.raises(Misconfigured, match="is no sealed secret") as caught:
            unseal(token, "sealing", str(tmp_path / "plain"))
        assert SECRET not in caught.value.message
        keys.secret_key(token, "sealing", "sealing").destroy()
        keys.make(token, "sealing", "sealing")
        with pytest.raises(Misconfigured, match="the key in the token is another one of the same name"):
            unseal(token, "sealing", str(file))
    hsm.token("second")
    with opened(place_of(Hsm(**hsm.settings("second"))), changes=True) as token:
        keys.make(token, "sealing", "sealing")
        with pytest.raises(Misconfigured, match=r"was sealed with the key sealing in the token main"):
            unseal(token, "sealing", str(file))


def _deployment(hsm: SoftHsm, sealed: Path) -> Path:
    remote = {"kind": "remote", "base_url": "http://127.0.0.1:9/v1", "api_key": f"sealed:{sealed}"}
    return hsm.document(sealing_key="sealing", engine=remote)


@pytest.mark.slow
def test_a_deployment_opens_its_secrets_once_and_hands_them_to_who_needs_them(
    hsm: SoftHsm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = tmp_path / "engine.sealed"
    document, reference = _deployment(hsm, sealed), f"sealed:{sealed}"
    monkeypatch.setenv(sealed_variable(reference), "")  # put back after the test
    monkeypatch.delenv(sealed_variable(reference))
    assert hsm.sextant("hsm", "init", document).returncode == 0
    made = hsm.sextant("hsm", "seal", document, "-o", sealed, given=f"{SECRET}\n")
    assert made.returncode == 0 and made.stdout == "", made.stderr
    assert sealed.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Misconfigured, match="is not open in this process"):
        resolve_secret(reference)
    assert open_hsm(load_document(document).spec) == ()
    assert resolve_secret(reference) == SECRET
    assert secret_variables([reference, None]) == {sealed_variable(reference): SECRET}
    shown = hsm.sextant("hsm", "exec", document, "--", "printenv", sealed_variable(reference))
    assert shown.stdout == f"{SECRET}\n", shown.stderr


@pytest.mark.slow
def test_a_start_says_what_is_wrong_with_the_hsm(hsm: SoftHsm, tmp_path: Path) -> None:
    document = _deployment(hsm, tmp_path / "engine.sealed")
    started = hsm.sextant("up", document, "--state", tmp_path / "state")
    assert started.returncode == 1 and "has no key sealing" in started.stderr
    hsm.sextant("hsm", "init", document)
    started = hsm.sextant("up", document, "--state", tmp_path / "state")
    assert started.returncode == 1 and "engine.sealed cannot be read" in started.stderr
    hsm.pin_file.write_text("000000")
    started = hsm.sextant("up", document, "--state", tmp_path / "state")
    assert started.returncode == 1 and "refused the PIN" in started.stderr
