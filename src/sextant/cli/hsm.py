"""`sextant hsm`: the token that a document names, its keys, and what is done with them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sextant.base.errors import Misconfigured
from sextant.cli.options import Json
from sextant.cli.output import out, print_json, print_record, print_table, warn

if TYPE_CHECKING:
    from sextant.security.token import OpenToken, TokenPlace
    from sextant.spec.security_sections import Hsm

app = typer.Typer(help="Keys in a hardware security module.", no_args_is_help=True)

Document = Annotated[
    Path, typer.Argument(metavar="FILE", help="Deployment document, with spec.security.hsm.")
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="USE",
        help="Only this key: tls, sealing or signing. Give it once for each.",
        show_default="all",
    ),
]
Pin = Annotated[
    str, typer.Option(metavar="REF", help="The PIN, instead of the document's: env:NAME or file:/path.")
]
AfterWrongPin = Annotated[
    bool,
    typer.Option("--after-wrong-pin", help="Log in although a wrong PIN was entered before; tokens lock."),
]
Key = Annotated[
    str,
    typer.Option(
        metavar="URI",
        help="The key as a PKCS#11 URI with module-path and pin-source; instead of --document.",
        show_default=False,
    ),
]
Named = Annotated[
    Path | None,
    typer.Option("--document", metavar="FILE", help="Document whose signing_key it is.", show_default=False),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Where it goes.", show_default="the terminal"),
]


@app.command()
def check(
    file: Document,
    pin: Pin = "",
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A certificate (PEM) that must be the TLS key's.", show_default=False
        ),
    ] = None,
    after_wrong_pin: AfterWrongPin = False,
    json: Json = False,
) -> None:
    """Look whether the token answers, the PIN is right, and the named keys are there and of the right
    kind."""
    from sextant.security import keys
    from sextant.security.opening import warnings_of
    from sextant.security.requests import check_certificate
    from sextant.security.token import opened, place_of

    hsm = _hsm(file)
    uses = _uses(hsm, None)
    with opened(place_of(hsm, pin_ref=pin), after_wrong_pin=after_wrong_pin) as token:
        found = [keys.look_at(token, label, use) for use, label in uses.items()]
        if "tls" in uses:
            keys.fit_for_front(token)
        if certificate is not None:
            check_certificate(token, _label(hsm, "tls"), certificate)
        said = warnings_of(token, found)
        _shown(token, found, json=json)
    for one in said:
        warn(one)


@app.command()
def init(
    file: Document,
    key: Only = None,
    rsa: Annotated[bool, typer.Option("--rsa", help="RSA keys, for tokens without EC or AES.")] = False,
    json: Json = False,
) -> None:
    """Make the keys that the document names and the token does not have, inside of it, never to leave it."""
    from sextant.security import keys
    from sextant.security.token import opened, place_of

    hsm = _hsm(file)
    with opened(place_of(hsm), changes=True) as token:
        found = []
        for use, label in _uses(hsm, key).items():
            if keys.is_there(token, label):
                found.append(keys.look_at(token, label, use))
            else:
                found.append(keys.make(token, label, use, rsa=rsa))
        _shown(token, found, json=json)


@app.command()
def request(
    file: Document,
    name: Annotated[
        list[str], typer.Option("--name", metavar="HOST", help="A name or address of the front.")
    ],
    output: Output = None,
) -> None:
    """Write the certificate request of the front's key, for an authority to sign."""
    from sextant.security.requests import certificate_request
    from sextant.security.token import opened, place_of

    hsm = _hsm(file)
    with opened(place_of(hsm)) as token:
        _written(certificate_request(token, _label(hsm, "tls"), name).decode(), output)


@app.command()
def seal(file: Document, output: Output = None) -> None:
    """Read a secret from standard input and write it sealed, for `sealed:/path` references."""
    from sextant.security.sealing import seal as sealed
    from sextant.security.token import opened, place_of

    hsm = _hsm(file)
    label = _label(hsm, "sealing")
    secret = sys.stdin.buffer.read().rstrip(b"\r\n")
    with opened(place_of(hsm)) as token:
        _written(sealed(token, label, secret), output)


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to sign, such as SHA256SUMS.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the signature goes.")],
    key: Key = "",
    document: Named = None,
) -> None:
    """Sign a file with the Ed25519 key in the token, as `openssl pkeyutl -sign -rawin` does with a file's."""
    from sextant.security import keys
    from sextant.security.token import opened

    place, label = _signing(key, document)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{file} cannot be read: {error.strerror}; name the file to sign") from None
    with opened(place) as token:
        signature = keys.sign(token, label, data)
    try:
        output.write_bytes(signature)
    except OSError as error:
        raise _unwritable(output, error) from None


@app.command("public-key")
def public_key(key: Key = "", document: Named = None, output: Output = None) -> None:
    """Write the public half of the signing key (PEM), which boxes verify releases with."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from sextant.security import keys
    from sextant.security.token import opened

    place, label = _signing(key, document)
    with opened(place) as token:
        keys.look_at(token, label, "signing")
        public = keys.public_key(token, label)
    _written(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), output)


@app.command("exec")
def execute(
    file: Document,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="Command and its arguments.")],
) -> None:
    """Run a command with the document's sealed secrets open, such as `sextant db backup`."""
    from sextant.security.opening import open_hsm
    from sextant.spec.document import load_document

    for said in open_hsm(load_document(file).spec):
        warn(said)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise Misconfigured(f"{command[0]} cannot be run: {error.strerror}") from None


def _hsm(file: Path) -> Hsm:
    from sextant.spec.document import load_document

    hsm = load_document(file).spec.security.hsm
    if hsm is None:
        raise Misconfigured(
            f"{file} names no HSM; write spec.security.hsm with module, token and pin",
            field="spec.security.hsm",
        )
    return hsm


def _uses(hsm: Hsm, only: list[str] | None) -> dict[Any, str]:
    """The labels that are asked for, by use. Raises where the document has none for a use."""
    from sextant.security.keys import FITS, named_keys

    for use in only or ():
        if use not in FITS:
            raise typer.BadParameter(f"{use!r}: expected {', '.join(FITS)}")
        _label(hsm, use)
    return {use: label for use, label in named_keys(hsm).items() if not only or use in only}


def _label(hsm: Hsm, use: str) -> str:
    from sextant.security.keys import named_keys

    label = {str(one): label for one, label in named_keys(hsm).items()}.get(use)
    if label is None:
        raise Misconfigured(
            f"the document names no {use} key; write spec.security.hsm.{use}_key: LABEL",
            field=f"spec.security.hsm.{use}_key",
        )
    return label


def _signing(uri: str, document: Path | None) -> tuple[TokenPlace, str]:
    from sextant.security.token import place_of, place_of_uri

    if bool(uri) == (document is not None):
        raise Misconfigured("say which key signs: --key URI, or --document FILE")
    if document is None:
        return place_of_uri(uri)
    hsm = _hsm(document)
    return place_of(hsm), _label(hsm, "signing")


def _shown(token: OpenToken, found: list[Any], *, json: bool) -> None:
    facts = token.facts
    if json:
        print_json({"token": facts, "keys": found})
        return
    print_record(
        (
            ("Token", f"{facts.label} (serial {facts.serial})"),
            ("Device", f"{facts.maker} {facts.model}, firmware {facts.firmware}"),
            ("Library", facts.library),
            ("Mechanisms", f"{len(facts.mechanisms)}; --json lists them"),
        )
    )
    rows = [(one.use, one.label, one.kind, one.bits, "yes" if one.extractable else "no") for one in found]
    out().print()
    print_table(("use", "key", "kind", "bits>", "extractable"), rows, "The document names no keys.")


def _written(text: str, output: Path | None) -> None:
    """To the terminal, or whole into a file of mode 0600."""
    if output is None:
        sys.stdout.write(text)
        return
    fresh = output.with_name(f".{output.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        fresh.replace(output)
    except OSError as error:
        raise _unwritable(output, error) from None


def _unwritable(output: Path, error: OSError) -> Misconfigured:
    return Misconfigured(f"{output} cannot be written: {error.strerror}; name another file: --output FILE")
