"""The process environment and secrets by reference: the only file of Sextant that reads either.

Everything that tunes Sextant lives in the deployment document; the environment holds only what must not stand
in it (secrets) and what the machine says about itself. A secret is named by a reference, `env:NAME`,
`file:/path` or `sealed:/path`, resolved here at the moment it is needed and never written to a log, a
snapshot or a message. A sealed one is opened once, at the start, by a key in an HSM (`security/opening.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from sextant.base.errors import Misconfigured

SECRET_BYTES = 64 * 1024
"""The most a secret file may hold."""

SECRET_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+|sealed:/.+")

VARIABLES = {
    "GIT_SSH_COMMAND": "How git reaches a repository over SSH, for `sextant follow`; without prompts when "
    "unset.",
    "HF_ENDPOINT": "Hugging Face, or a mirror of it, that models are fetched from; https://huggingface.co "
    "when unset.",
    "HF_TOKEN": "Token for it; none is sent when unset. `--token` names another by reference.",
    "HTTPS_PROXY": "Proxy for outbound requests; also HTTP_PROXY and ALL_PROXY, and each in small letters.",
    "KUBECONFIG": "Which clusters `kubectl` knows, for `sextant verify` and `sextant apply`.",
    "LANG": "Language of `sextant advise` and `sextant plan`: Chinese for `zh…`, else English. LC_ALL and "
    "LC_MESSAGES win.",
    "MODELSCOPE_API_TOKEN": "Token for ModelScope; none is sent when unset.",
    "MODELSCOPE_ENDPOINT": "ModelScope; https://modelscope.cn when unset.",
    "NO_COLOR": "Set to anything: messages without colour.",
    "NO_PROXY": "Hosts, by comma, that outbound requests reach without the proxy.",
    "REQUESTS_CA_BUNDLE": "Certificate authorities for outbound requests when SSL_CERT_FILE is unset.",
    "SEXTANT_API_KEY": "API key of `sextant chat`; the state directory's own when unset.",
    "SEXTANT_K8S_SCHEMAS": "Folder of schemas for `sextant verify`; `kubernetes-validate` when unset.",
    "SEXTANT_PARENT_PID": "Pid of the process to end with, when it is the parent; the supervisor sets it.",
    "SEXTANT_STATE": "State directory of commands that are not given `--state`; `.sextant` when unset.",
    "SSH_AUTH_SOCK": "Agent whose keys `sextant follow` has git use for repositories over SSH.",
    "SSL_CERT_DIR": "Folder of certificate authorities for outbound requests, as OpenSSL wants it.",
    "SSL_CERT_FILE": "PEM file of certificate authorities for outbound requests; the system's when unset.",
}
"""Every environment variable that Sextant reads, apart from the secrets that a document names; documented."""

_INHERITED = frozenset(
    {"PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "NO_COLOR", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "PYTHONWARNINGS"}
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def resolve_secret(ref: str) -> str:
    """The secret that `ref` names: `env:NAME`, `file:/path` (one line; a final newline is dropped), or
    `sealed:/path`, which was opened at the start.

    Raises Misconfigured when the reference is malformed, names nothing, or names a file that others may read.
    The message never holds the secret.
    """
    scheme, _, rest = ref.partition(":")
    if scheme == "env" and SECRET_REFERENCE.fullmatch(ref):
        return _checked(_from_environment(rest), ref)
    if scheme == "file" and rest:
        return _checked(_from_file(Path(rest)), ref)
    if scheme == "sealed" and SECRET_REFERENCE.fullmatch(ref):
        return _checked(_unsealed(ref), ref)
    # The reference may be the secret itself, pasted where a reference belongs: never repeat it.
    raise Misconfigured(
        "a secret reference is neither `env:NAME` nor `file:/path` nor `sealed:/path` (its value is not "
        "shown); "
        "put the secret in a file of mode 0600 and write `file:/path/to/it`"
    )


def sealed_variable(ref: str) -> str:
    """The environment variable in which processes of a deployment hold the sealed secret `ref`, opened."""
    return f"SEXTANT_SEALED_{hashlib.sha256(ref.encode()).hexdigest()[:16].upper()}"


def hold_unsealed(ref: str, secret: str) -> None:
    """Keeps an opened secret for `resolve_secret` here, and for children that are given its variable. Only
    the memory of these processes has it."""
    os.environ[sealed_variable(ref)] = secret


def give_to_libraries(variables: Mapping[str, str]) -> None:
    """Sets environment variables that a library reads which is loaded into this process."""
    os.environ.update(variables)


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a process that we start: what a program needs from ours, and `extra`.

    Nothing else is inherited, so that a secret in our environment does not reach an engine that needs none.
    """
    kept = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")}
    return {**kept, **(extra or {})}


def variable(name: str) -> str | None:
    """The environment variable `name`, or None when it is unset or empty."""
    return os.environ.get(name) or None


def outbound_environment() -> dict[str, str]:
    """What a program that we start needs of our environment to reach others: proxies and SSH's own."""
    proxies = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
    names = (*proxies, *(name.lower() for name in proxies), "GIT_SSH_COMMAND", "SSH_AUTH_SOCK")
    return {name: value for name in names if (value := os.environ.get(name))}


def outbound_proxy(url: str) -> str | None:
    """The proxy for a request to `url`, by HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; None for none."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def outbound_authorities() -> tuple[str | None, str | None]:
    """(file, folder) of certificate authorities named for outbound requests; None: the system's."""
    bundle = variable("SSL_CERT_FILE") or variable("REQUESTS_CA_BUNDLE")
    if bundle is not None and Path(bundle).is_dir():  # as REQUESTS_CA_BUNDLE may be
        return None, bundle
    return bundle, variable("SSL_CERT_DIR")


def _from_environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise Misconfigured(
            f"the environment variable {name} is not set, but the secret reference env:{name} needs it; "
            f"set it before starting, or use file:/path"
        )
    return value


def _unsealed(ref: str) -> str:
    value = os.environ.get(sealed_variable(ref))
    if value is None:
        raise Misconfigured(
            f"the sealed secret {ref} is not open in this process; `sextant up` opens it with "
            f"spec.security.hsm, "
            f"and `sextant hsm exec FILE -- COMMAND` for another command"
        )
    return value


def _from_file(path: Path) -> str:
    if not path.is_absolute():
        raise Misconfigured(f"the secret file {path} must be an absolute path; write file:{Path('/', path)}")
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            data = file.read(SECRET_BYTES + 1)
    except FileNotFoundError:
        raise Misconfigured(f"the secret file {path} does not exist; create it with mode 0600") from None
    except IsADirectoryError:
        raise Misconfigured(f"the secret file {path} is a directory; name the file inside it") from None
    except OSError as error:
        raise Misconfigured(f"the secret file {path} cannot be read: {error.strerror}") from None
    if len(data) > SECRET_BYTES:
        raise Misconfigured(
            f"the secret file {path} is larger than {SECRET_BYTES} bytes; a secret is one line"
        )
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Misconfigured(
            f"the secret file {path} is not UTF-8 text; a secret is one line of text"
        ) from None


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Misconfigured(f"the secret file {path} is not a regular file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise Misconfigured(
            f"the secret file {path} has mode {mode:04o}, so other users may read or change it; "
            f"run: chmod 600 {path}"
        )


def _checked(secret: str, ref: str) -> str:
    if not secret.strip():
        raise Misconfigured(f"the secret {ref} is empty")
    if _CONTROL.search(secret):
        raise Misconfigured(
            f"the secret {ref} holds a line break or another control character; it is one line"
        )
    return secret
