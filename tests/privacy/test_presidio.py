"""Presidio beside our own detectors, where it is installed."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from sextant.base.errors import Misconfigured
from sextant.privacy.detector import Detector
from sextant.privacy.spans import BUILT_IN

INSTALLED = importlib.util.find_spec("presidio_analyzer") is not None


@pytest.mark.skipif(INSTALLED, reason="Presidio is installed")
def test_asking_for_it_without_it_says_how_to_get_it():
    with pytest.raises(Misconfigured, match=r"pip install 'sextant-llm\[presidio\]'"):
        Detector(["PRESIDIO"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not INSTALLED, reason="the extra `presidio` is not installed")
def test_it_adds_what_we_do_not_know_and_asks_the_network_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise AssertionError("Presidio wants the network")

    monkeypatch.setattr(socket.socket, "connect", nowhere)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    detector = Detector((*BUILT_IN, "PRESIDIO"))
    text = "IBAN DE89370400440532013000, mail a@qq.com, card 4111111111111111, 身份证11010519491231002X"
    found = {(span.type, text[span.start : span.end]) for span in detector.find(text)}
    assert {
        ("IBAN_CODE", "DE89370400440532013000"),
        ("EMAIL", "a@qq.com"),
        ("BANK_CARD", "4111111111111111"),
        ("CN_ID", "11010519491231002X"),
    } <= found
