"""Which addresses and hosts are public: the list of what a caller's URL may not lead to."""

from __future__ import annotations

import pytest

from sextant.transport.addresses import is_not_public, leads_inside


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("192.0.2.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::1", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("fec0::1", False),
        ("168.63.129.16", False),
        ("168.63.129.17", True),
        ("192.88.99.1", False),
        ("3fff::1", False),
        ("3fff:0fff:ffff::1", False),
        ("64:ff9b::5db8:d70e", False),
        ("64:ff9b:1::1", False),
        ("::ffff:93.184.215.14", False),
        ("::93.184.215.14", False),
        ("2002:a83f:8110::1", False),
        ("2002:c058:6301::1", False),
        ("2002:5db8:d70e::1", True),
        ("2001:0:5db8:d70e:8000:63bf:a247:28f1", False),
        ("4000::1", False),
        ("no address", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_not_public(address) is not public


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("images.example.com", False),
        ("images.example.com.", False),
        ("93.184.215.14", False),
        ("93.184.215.14.", False),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", False),
        ("7.example", False),
        ("localhost.example.com", False),
        ("mylocalhost", False),
        ("localhost", True),
        ("LocalHost.", True),
        ("a.localhost", True),
        ("localhost.localdomain", True),
        ("127.0.0.1", True),
        ("127.0.0.1.", True),
        ("169.254.169.254", True),
        ("168.63.129.16", True),
        ("::1", True),
        ("::ffff:10.0.0.1", True),
        ("fec0::1", True),
        ("127.1", True),
        ("0177.0.0.1", True),
        ("2130706433", True),
        ("0x7f000001", True),
        ("127.0.0.0x1", True),
        ("%31%32%37.0.0.1", True),
        ("fe80::1%25eth0", True),
        ("", True),
        (".", True),
    ],
)
def test_which_hosts_lead_inside_by_their_own_words(host: str, inside: bool) -> None:
    assert leads_inside(host) is inside
