"""Keys of a server in a hardware security module: what nginx, OpenSSL, the units and the operator need for
it.

nginx takes the front's key through OpenSSL's pkcs11 engine (Debian: libengine-pkcs11-openssl). Before each
start the unit asks the token itself, so that a wrong PIN is tried once and said in plain words; the engine
would try it in every worker. Neighbours: `front.py`, `units.py`, `scripts.py` (which asks before anything is
installed).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from urllib.parse import quote

from sextant.render.dumping import text_file
from sextant.render.hosts.places import BUNDLE, CERTIFICATE, ETC, VENV, Ground
from sextant.render.hosts.units import Line, quoted
from sextant.spec.bundle import File, Need, Step
from sextant.spec.security_sections import Hsm

CREDENTIAL = "hsm-pin"
"""What the front's unit calls the PIN."""
CREDENTIALS = "/run/credentials/sextant-front.service"
"""Where systemd puts it, readable by that unit alone."""
OPENSSL = f"{ETC}/openssl-hsm.cnf"
ENGINE_PACKAGE = "libengine-pkcs11-openssl"
COLUMNS = 100
RESTART_WAIT_S = 5
"""Between starts of a front whose HSM does not answer."""
VERIFIED = (
    "Keys in an HSM were tried with SoftHSM 2.6 and nginx 1.22 (Debian 12); no real HSM has been at hand. "
    "Look at `sextant hsm check` and at one handshake before callers come."
)


def hsm_of(ground: Ground) -> Hsm | None:
    """The HSM that the document names."""
    return ground.order.deployment.spec.security.hsm


def front_hsm(ground: Ground) -> Hsm | None:
    """The HSM where the front's own key is in it."""
    hsm = hsm_of(ground)
    return hsm if hsm is not None and hsm.tls_key is not None else None


def used_here(ground: Ground) -> bool:
    """Whether the server itself uses keys of the HSM: not where it only signs releases, elsewhere."""
    hsm = hsm_of(ground)
    return hsm is not None and hsm.serves


def group(ground: Ground) -> str:
    """Who may use the HSM on the server, beside root; empty where the document names no group."""
    hsm = hsm_of(ground)
    return (hsm.group or "") if hsm is not None and hsm.serves else ""


def key_line(ground: Ground, key_file: str) -> str:
    """What nginx's `ssl_certificate_key` says: a file, or a key in the token."""
    hsm = front_hsm(ground)
    if hsm is None:
        return key_file
    serial = f";serial={quote(hsm.serial)}" if hsm.serial else ""
    key = f"token={quote(hsm.token)}{serial};object={quote(hsm.tls_key or '')};type=private"
    return f'"engine:pkcs11:pkcs11:{key}?pin-source=file:{CREDENTIALS}/{CREDENTIAL}"'


def worker_variables(ground: Ground) -> str:
    """nginx clears its workers' environment but for what is named."""
    hsm = front_hsm(ground)
    return "".join(f"env {name};\n" for name in sorted(hsm.environment)) if hsm else ""


def front_files(ground: Ground) -> tuple[File, ...]:
    """OpenSSL's configuration for the front."""
    hsm = front_hsm(ground)
    return (text_file("front/openssl-hsm.cnf", _OPENSSL.format(module=hsm.module)),) if hsm else ()


def front_lines(ground: Ground) -> tuple[Line, ...]:
    """What the front's unit has beside its program: PIN, environment, and the question before a start."""
    hsm = front_hsm(ground)
    if hsm is None:
        return ()
    asked = (
        f"{VENV}/bin/sextant hsm check {BUNDLE}/sextant.yaml --pin file:%d/{CREDENTIAL} "
        f"--certificate {CERTIFICATE}"
    )
    return (
        ("LoadCredential", f"{CREDENTIAL}:{hsm.pin.removeprefix('file:')}"),
        ("Environment", f"OPENSSL_CONF={OPENSSL} LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1"),
        *(("Environment", quoted(f"{name}={value}")) for name, value in sorted(hsm.environment.items())),
        ("ExecStartPre", asked),
    )


def needs(ground: Ground) -> Iterator[Need]:
    """What must be there beside the secrets that the document names."""
    hsm = hsm_of(ground)
    if hsm is None:
        if ground.order.defaults.encryption == "hsm":
            yield Need(
                "hardware",
                "a hardware security module",
                "the profile wants keys held by one; write spec.security.hsm with its library, token, PIN "
                "and "
                "the labels of its keys, and render again",
            )
        return
    labels = ", ".join(label for label in (hsm.tls_key, hsm.sealing_key) if label)
    if labels:
        yield Need(
            "hardware",
            f"the token {hsm.token} of an HSM, with {hsm.module}",
            f"holds the keys {labels}",
            f"ls -l {hsm.module}",
        )
    if hsm.tls_key is not None:
        yield Need(
            "program",
            ENGINE_PACKAGE,
            "lets nginx use the key in the HSM; with the OpenSSL of nginx",
            "openssl engine pkcs11",
        )


def install_steps(ground: Ground) -> tuple[Step, ...]:
    """How keys and certificate come about, before the installation."""
    hsm = hsm_of(ground)
    if hsm is None or not used_here(ground):
        return ()
    name = ground.order.deployment.spec.delivery.ingress_host or "api.example.com"
    tool = "sudo ../hsm-tool/bin/sextant hsm"
    typed = [
        "python3 -m venv ../hsm-tool",
        f"../hsm-tool/bin/pip install 'sextant-llm[hsm]=={ground.order.version}'",
        f"{tool} init sextant.yaml",
    ]
    told = "The keys that are missing are made inside the token, and never leave it."
    if hsm.tls_key is not None:
        typed.append(f"{tool} request sextant.yaml --name {name} -o ../server.csr")
        told += " Have your authority sign server.csr; its answer, with the chain, is ../server.pem."
    for reference in ground.references:
        if reference.startswith("sealed:"):
            typed.append(
                f"{tool} seal sextant.yaml -o {reference.removeprefix('sealed:')}   # type the secret"
            )
    if any("seal sextant.yaml" in line for line in typed):
        told += " `seal` reads a secret until Ctrl-D."
    return (Step("Make the keys in the HSM", tuple(typed), told),)


def notes(ground: Ground) -> tuple[str, ...]:
    """What the README says of it."""
    return (VERIFIED,) if used_here(ground) else ()


def operating_lines(ground: Ground) -> Iterator[str]:
    """The section of OPERATING.md."""
    hsm = hsm_of(ground)
    if hsm is None or not used_here(ground):
        yield "Keys are files: the document names no HSM (spec.security.hsm)."
        return
    yield ""
    yield "## The HSM"
    yield ""
    yield f"    sudo {VENV}/bin/sextant hsm check {BUNDLE}/sextant.yaml"
    yield ""
    yield from textwrap.wrap(
        f"asks the token {hsm.token} and lists its keys. A wrong PIN is tried once: after that nothing "
        f"logs in "
        "until a person has put the right one in its place and said so:",
        COLUMNS,
    )
    yield ""
    yield f"    sudo {VENV}/bin/sextant hsm check {BUNDLE}/sextant.yaml --after-wrong-pin"
    if hsm.tls_key is not None:
        yield ""
        yield from textwrap.wrap(
            f"The front's key is {hsm.tls_key} in the token; its unit asks the token before each start, "
            f"tries "
            f"again after {RESTART_WAIT_S} s while the HSM does not answer, and says why in `journalctl -u "
            f"sextant-front.service`. Renewing takes a certificate alone: `{BUNDLE}/renew-certificate.sh "
            f"--cert "
            "server.pem`. Handshakes need the HSM; connections that are open do not.",
            COLUMNS,
        )
    if hsm.sealing_key is not None:
        yield ""
        yield from textwrap.wrap(
            f"Sealed secrets are opened with {hsm.sealing_key} when sextant.service starts, and stand in "
            f"no file "
            "in clear. To change one: `sextant hsm seal`, then restart sextant.service. Back the key up with "
            "the maker's tool: without it they do not open again.",
            COLUMNS,
        )


_OPENSSL = """\
# Read by nginx of sextant-front.service alone (OPENSSL_CONF). The PIN stands elsewhere.
openssl_conf = openssl_init

[openssl_init]
engines = engines

[engines]
pkcs11 = pkcs11

[pkcs11]
engine_id = pkcs11
MODULE_PATH = {module}
init = 1
"""
