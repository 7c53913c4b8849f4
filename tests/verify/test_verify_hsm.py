"""What counts as a PIN that was written out, and what only names where it is."""

from __future__ import annotations

import pytest

from sextant.operations.verify.hsm_rules import WRITTEN_PIN


@pytest.mark.parametrize(
    "text",
    [
        "  pin: 246813",
        "pin: '246813'",
        "- pin: 246813",
        '{"token": "plant", "pin": "246813"}',
        "hsm: {pin: 246813}",
        "sextant hsm check FILE --pin 246813",
        "--so-pin=246813",
        "pkcs11:token=plant?pin-value=246813",
        "PIN = 246813",
    ],
)
def test_a_pin_is_found(text: str) -> None:
    assert WRITTEN_PIN.search(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "pin: file:/etc/sextant/hsm-pin",
        'pin: "file:/etc/sextant/hsm-pin"',
        "hsm: {pin: 'env:HSM_PIN'}",
        "pin:  # in a file",
        "pin:\n  other: 246813",
        "pinned: 246813",
        "--pin file:%d/hsm-pin",
        '--pin "$PIN"',
        "?pin-source=file:/run/credentials/hsm-pin",
    ],
)
def test_a_place_is_none(text: str) -> None:
    assert WRITTEN_PIN.search(text) is None
