"""Rules for a bundle's files: the manifest, secrets, documents, units, scripts, versions of APIs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from sextant.base.config import SECRET_REFERENCE
from sextant.base.errors import SextantError
from sextant.operations.bundles import changed_files
from sextant.operations.verify.findings import Fault
from sextant.operations.verify.hsm_rules import keys_out_of_reach, pins_written_out
from sextant.operations.verify.pods import named
from sextant.operations.verify.subject import Subject
from sextant.privacy.secrets import find_in_urls, find_keys, find_named
from sextant.privacy.spans import Span
from sextant.spec.document import parse_document

FINDERS = (find_keys, find_in_urls, find_named)
CREDENTIAL_FILE = re.compile(r"LoadCredential=[\w.-]+:/[\w./-]+")
"""How a unit names the file of a credential."""
VERSION = re.compile(r"v?1\.(\d{1,3})(?:\.\d{1,3})?")
DOCUMENT = "sextant.yaml"
NOT_SERVED = "SX-V107"
"""The rule about versions of APIs, which wants to know the cluster's."""
AGAIN = "change the document and render again, or take the change back"


def manifest_kept(subject: Subject) -> Iterator[Fault]:
    """SX-V101: every file is as it was rendered, none is missing, none was added."""
    listed = subject.manifest["files"]
    for path in changed_files(subject.folder, subject.manifest):
        there = (subject.folder / path).exists()
        said = "was changed" if there and path in listed else "was added" if there else "is missing"
        yield Fault("SX-V101", f"{said} since the bundle was rendered", AGAIN, path)


def secrets_written_out(subject: Subject) -> Iterator[Fault]:
    """SX-V103: no file holds a key, a private key or a password."""
    for path, text in subject.texts.items():
        for number, line in enumerate(text.splitlines(), start=1):
            if any(_is_written_out(line, span) for find in FINDERS for span in find(line)):
                yield Fault(
                    "SX-V103",
                    f"line {number} holds what looks like a secret",
                    "name the secret by reference, and change it: it was written down",
                    path,
                )


def _is_written_out(line: str, span: Span) -> bool:
    """Whether it is the secret itself: neither a reference nor the name of a file that holds it."""
    if SECRET_REFERENCE.fullmatch(line[span.start : span.end]):
        return False
    if CREDENTIAL_FILE.fullmatch(line):
        return False
    return "--from-file=" not in line[: span.start].split(" ")[-1]


def documents_that_cannot_serve(subject: Subject) -> Iterator[Fault]:
    """SX-V104: the documents that gateways run with can be read by this version."""
    found = [(path, text) for path, text in subject.texts.items() if Path(path).name == DOCUMENT]
    for path, bodies in subject.objects.items():
        for body in bodies:
            data = body.get("data")
            if body["kind"] == "ConfigMap" and isinstance(data, dict) and DOCUMENT in data:
                found.append((path, str(data[DOCUMENT])))
    for path, text in found:
        try:
            parse_document(text, name=path)
        except SextantError as error:
            yield Fault("SX-V104", error.message, AGAIN, path)


def units_unknown(subject: Subject) -> Iterator[Fault]:
    """SX-V105: units.list and systemd/ name the same units."""
    if "units.list" not in subject.texts:
        return
    listed = {line.split()[-1] for line in subject.texts["units.list"].splitlines() if line.strip()}
    there = {Path(path).name for path in subject.texts if path.startswith("systemd/")}
    for name in sorted(listed - there):
        yield Fault("SX-V105", f"names the unit {name}, which is not in systemd/", AGAIN, "units.list")


def scripts_that_go_on(subject: Subject) -> Iterator[Fault]:
    """SX-V106: scripts that are run may be, and stop at the first fault."""
    for path, text in subject.texts.items():
        if not path.endswith(".sh") or not text.startswith("#!"):
            continue
        if (subject.folder / path).stat().st_mode & 0o111 == 0:
            yield Fault("SX-V106", "is a script that may not be run", f"chmod +x {path}", path)
        if not re.search(r"^set -\w*e\w*", text, re.MULTILINE):
            yield Fault("SX-V106", "goes on after a command that failed", "begin it with `set -eu`", path)


def versions_not_served(subject: Subject, kubernetes: str) -> Iterator[Fault]:
    """SX-V107: that version of Kubernetes serves every object's API."""
    minor = minor_of(kubernetes)
    table = _table()
    for path, bodies in subject.objects.items():
        for body in bodies:
            for row in table:
                if row["api"] != body["apiVersion"] or body["kind"] not in row["kinds"]:
                    continue
                if "removed" in row and minor >= row["removed"]:
                    said = f"{body['apiVersion']} is not served since Kubernetes 1.{row['removed']}"
                elif "since" in row and minor < row["since"]:
                    said = f"{body['apiVersion']} is served from Kubernetes 1.{row['since']} on"
                else:
                    continue
                yield Fault(NOT_SERVED, f"{named(body)}: {said}", row["instead"], path)


def minor_of(kubernetes: str) -> int:
    """36 for `1.36` or `v1.36.2`. Raises SextantError for what is no version."""
    found = VERSION.fullmatch(kubernetes)
    if found is None:
        raise SextantError(f"`{kubernetes}` is no version of Kubernetes; expected one like 1.36")
    return int(found[1])


def _table() -> list[dict[str, Any]]:
    place = resources.files("sextant.spec").joinpath("data", "kubernetes_apis.toml")
    rows: list[dict[str, Any]] = tomllib.loads(place.read_text(encoding="utf-8"))["api"]
    return rows


FILE_RULES: Mapping[str, Callable[[Subject], Iterable[Fault]]] = {
    "SX-V101": manifest_kept,
    "SX-V103": secrets_written_out,
    "SX-V104": documents_that_cannot_serve,
    "SX-V105": units_unknown,
    "SX-V106": scripts_that_go_on,
    "SX-V108": pins_written_out,
    "SX-V109": keys_out_of_reach,
}
"""By the id that each one's faults carry."""
