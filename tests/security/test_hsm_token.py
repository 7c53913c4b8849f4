"""A token over PKCS#11: opened, its keys made and looked at, and what is said of everything that is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from security.softhsm_kit import MODULE, PIN, SoftHsm, soft_hsm
from sextant.base.errors import Misconfigured
from sextant.security import keys
from sextant.security.opening import warnings_of
from sextant.security.requests import certificate_request, check_certificate
from sextant.security.token import TokenPlace, opened, place_of, place_of_uri
from sextant.spec.security_sections import Hsm


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "none"))  # and put back what a token's place sets
    return soft_hsm(tmp_path / "hsm", "main")


def place(hsm: SoftHsm, token: str = "main", **more: Any) -> TokenPlace:
    return place_of(Hsm(**hsm.settings(token, **more)))


def code_of(place: TokenPlace, *, after_wrong_pin: bool = False) -> str:
    """The error's code; the message names neither PIN."""
    with pytest.raises(Misconfigured) as caught, opened(place, after_wrong_pin=after_wrong_pin):
        pass
    assert PIN not in caught.value.message
    return caught.value.code


@pytest.mark.parametrize(
    ("use", "rsa", "kind", "bits"),
    [
        ("tls", False, "EC P-256", 256),
        ("tls", True, "RSA", 3072),
        ("sealing", False, "AES", 256),
        ("sealing", True, "RSA", 3072),
        ("signing", False, "Ed25519", 256),
    ],
)
def test_keys_are_made_inside_and_do_not_leave(
    hsm: SoftHsm, use: keys.Use, rsa: bool, kind: str, bits: int
) -> None:
    with opened(place(hsm), changes=True) as token:
        made = keys.make(token, "mine", use, rsa=rsa)
        assert keys.is_there(token, "mine") and not keys.is_there(token, "other")
        assert warnings_of(token, [made]) == []
    assert (made.kind, made.bits, made.extractable) == (kind, bits, False)
    with opened(place(hsm)) as token:
        assert keys.look_at(token, "mine", use) == made, "it stays"


def test_a_wrong_pin_is_tried_once_and_never_again_by_itself(hsm: SoftHsm) -> None:
    hsm.pin_file.write_text("000000")
    assert code_of(place(hsm)) == "hsm_pin"
    assert code_of(place(hsm)) == "hsm_pin_doubtful", "not tried"
    hsm.pin_file.write_text(PIN)
    assert code_of(place(hsm)) == "hsm_pin_doubtful", "nor is the right one, until a person says so"
    with opened(place(hsm), after_wrong_pin=True):
        pass
    with opened(place(hsm)):
        pass


def test_libraries_and_tokens_that_are_not_there(hsm: SoftHsm, tmp_path: Path) -> None:
    assert code_of(place(hsm, module="/usr/lib/nowhere.so")) == "hsm_module"
    (tmp_path / "text.so").write_text("no library")
    assert code_of(place(hsm, module=str(tmp_path / "text.so"))) == "hsm_module"
    none = pytest.raises(Misconfigured, match=r"has no token other; it has main \(serial \w+\)")
    with none, opened(place(hsm, "other")):
        pass
    assert code_of(place(hsm, environment={"SOFTHSM2_CONF": "/nowhere.conf"})) in ("hsm_module", "hsm_token")


def test_of_two_tokens_of_one_label_the_serial_number_tells(hsm: SoftHsm) -> None:
    hsm.token("main")
    assert code_of(place(hsm)) == "hsm_token"
    several = pytest.raises(Misconfigured, match="name the right one by its serial number")
    with several as caught, opened(place(hsm)):
        pass
    serial = caught.value.message.partition("(serial ")[2].partition(")")[0]
    with opened(place(hsm, serial=serial)) as token:
        assert token.facts.serial == serial


def test_keys_that_are_not_as_they_should_be(hsm: SoftHsm) -> None:
    with opened(place(hsm), changes=True) as token:
        keys.make(token, "front", "tls")
        with pytest.raises(Misconfigured, match="no key nothing that this PIN opens; it has front"):
            keys.look_at(token, "nothing", "tls")
        with pytest.raises(Misconfigured, match="is EC P-256 of 256 bits; expected AES or RSA"):
            keys.look_at(token, "front", "sealing")
        keys.fit_for_front(token)
        keys.make(token, "release", "signing")
        with pytest.raises(Misconfigured, match="holds the Ed25519 key release"):
            keys.fit_for_front(token)
        with pytest.raises(Misconfigured, match="has 2 keys front"):
            keys.make(token, "front", "tls")
        token.session.generate_key(_aes(), 256, label="loose", store=True, template=_loose())
        loose = keys.look_at(token, "loose", "sealing")
        assert loose.extractable and "no safer than a file" in warnings_of(token, [loose])[0]
        token.session.generate_key(_aes(), 128, label="short", store=True)
        with pytest.raises(Misconfigured, match="is AES of 128 bits"):
            keys.look_at(token, "short", "sealing")


def _aes() -> Any:
    import pkcs11

    return pkcs11.KeyType.AES


def _loose() -> Any:
    import pkcs11

    return {pkcs11.Attribute.EXTRACTABLE: True, pkcs11.Attribute.SENSITIVE: False}


@pytest.mark.parametrize("rsa", [False, True])
def test_a_request_is_signed_in_the_token_and_its_certificate_known(
    hsm: SoftHsm, tmp_path: Path, rsa: bool
) -> None:
    with opened(place(hsm), changes=True) as token:
        keys.make(token, "front", "tls", rsa=rsa)
        (tmp_path / "csr").write_bytes(certificate_request(token, "front", ["api.example.com", "10.0.0.1"]))
        looked = _openssl("req", "-in", tmp_path / "csr", "-noout", "-verify", "-text")
        assert "DNS:api.example.com, IP Address:10.0.0.1" in looked
        _issue(tmp_path)
        check_certificate(token, "front", tmp_path / "pem")
        keys.make(token, "other", "tls")
        with pytest.raises(Misconfigured, match="is not the certificate of the key other"):
            check_certificate(token, "other", tmp_path / "pem")
        with pytest.raises(Misconfigured, match="holds no certificate"):
            check_certificate(token, "front", tmp_path / "csr")


def test_a_request_names_hosts_alone(hsm: SoftHsm) -> None:
    with opened(place(hsm), changes=True) as token:
        keys.make(token, "front", "tls")
        for name in ("", "not a host", "höst.example.com", "https://api.example.com", "x" * 254):
            with pytest.raises(Misconfigured, match="is neither a host's name nor an address"):
                certificate_request(token, "front", ["api.example.com", name])
        long = ".".join(["a-long-label"] * 6)
        for names in ([long], ["*.example.com"], ["2001:db8::1"]):
            assert certificate_request(token, "front", names).startswith(b"-----BEGIN")


@pytest.mark.slow
def test_files_that_cannot_be_read_or_written_are_no_crash(hsm: SoftHsm, tmp_path: Path) -> None:
    document = hsm.document(signing_key="release", sealing_key="sealing")
    assert hsm.sextant("hsm", "init", document).returncode == 0
    (tmp_path / "sums").write_text("the list")
    nowhere = tmp_path / "none" / "file"
    sign = ("hsm", "sign", "--document", document, "-o")
    for words, said in (
        ((*sign, tmp_path / "sig", nowhere), "cannot be read"),
        ((*sign, nowhere, tmp_path / "sums"), "cannot be written"),
        (("hsm", "seal", document, "-o", nowhere), "cannot be written"),
    ):
        told = hsm.sextant(*words, given="secret")
        assert told.returncode == 1 and f"{nowhere} {said}: No such file" in told.stderr, told.stderr


def test_a_signature_is_what_openssl_verifies(hsm: SoftHsm, tmp_path: Path) -> None:
    (tmp_path / "sums").write_text("the list")
    made = hsm.sextant("hsm", "init", hsm.document(signing_key="release"))
    assert made.returncode == 0, made.stderr
    uri = f"pkcs11:token=main;object=release?module-path={MODULE}&pin-source=file:{hsm.pin_file}"
    place, label = place_of_uri(uri)
    assert (place.token, label) == ("main", "release")
    document = ("--document", hsm.document(signing_key="release"))
    signed = hsm.sextant("hsm", "sign", tmp_path / "sums", "-o", tmp_path / "sig", *document)
    assert signed.returncode == 0, signed.stderr
    hsm.sextant("hsm", "public-key", *document, "-o", tmp_path / "pub")
    verify = (
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        tmp_path / "pub",
        "-rawin",
        "-sigfile",
        tmp_path / "sig",
    )
    assert "Success" in _openssl(*verify, "-in", tmp_path / "sums")
    (tmp_path / "sums").write_text("another list")
    assert "Success" not in _openssl(*verify, "-in", tmp_path / "sums")


@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:token=a;object=b",
        "pkcs11:object=b?module-path=/m&pin-source=file:/p",
        "pkcs11:token=a;object=b?module-path=/m&pin-value=246813",
        "file:/key.pem",
    ],
)
def test_an_address_that_is_not_whole_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(Misconfigured, match="not complete") as caught:
        place_of_uri(uri)
    assert PIN not in caught.value.message


def _openssl(*words: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr


def _issue(folder: Path) -> None:
    """Signs `csr` as an authority does; the answer is `pem`."""
    made = (
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=ca",
    )
    _openssl(*made, "-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-days", "2")
    issued = ("x509", "-req", "-in", folder / "csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key")
    _openssl(*issued, "-days", "2", "-copy_extensions", "copy", "-out", folder / "pem")
