"""Rules for keys in a hardware security module: no PIN is written out, and the front is brought to its
key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sextant.operations.verify.findings import Fault
from sextant.operations.verify.subject import Subject

WRITTEN_PIN = re.compile(
    r"pin-value=\S"
    r"|^\s*PIN\s*=\s*\S"
    r"|--(?:so-)?pin[ =](?!(?:env|file):|\"?\$|REF\b)\S"
    r"|(?:^|[{,])[ \t]*(?:- )?[\"']?pin[\"']?:[ \t]*(?!\s|#|[\"']?(?:env|file):|(?:\"\"|''))\S",
    re.MULTILINE,
)
"""In a PKCS#11 URI, OpenSSL's configuration, a command line, a document."""
ENGINE_KEY = re.compile(r"^\s*ssl_certificate_key\s+\"?engine:", re.MULTILINE)
FRONT_UNIT = "systemd/sextant-front.service"
WIRED = ("LoadCredential=hsm-pin:", "OPENSSL_CONF=", " hsm check ")
"""What the front's unit needs: the PIN, the engine's configuration, and the question that tries a PIN
once."""


def pins_written_out(subject: Subject) -> Iterator[Fault]:
    """SX-V108: no file holds the PIN of a token."""
    for path, text in subject.texts.items():
        for found in WRITTEN_PIN.finditer(text):
            line = text.count("\n", 0, found.start() + len(found[0]) - 1) + 1
            yield Fault(
                "SX-V108",
                f"line {line} holds what looks like the PIN of a token",
                "name a file that holds it: `file:/etc/sextant/hsm-pin`; change the PIN, since it was "
                "written down",
                path,
            )


def keys_out_of_reach(subject: Subject) -> Iterator[Fault]:
    """SX-V109: where nginx's key is in an HSM, its unit brings what that takes."""
    fronts = [
        text
        for path, text in subject.texts.items()
        if Path(path).name == "nginx.conf" and ENGINE_KEY.search(text)
    ]
    unit = subject.texts.get(FRONT_UNIT, "")
    missing = [each.strip() for each in WIRED if each not in unit]
    if fronts and missing:
        yield Fault(
            "SX-V109",
            f"nginx's key is in an HSM, and the unit does not say {', '.join(missing)}",
            "render again with spec.security.hsm.tls_key",
            FRONT_UNIT,
        )
