"""Value types of the deployment document, and the base of its parts. For `document.py` and `limits.py`."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from sextant.base.config import SECRET_REFERENCE

_NAME = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
_MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
_MODEL_ALIAS = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\*?$"
_HOST = r"^[A-Za-z0-9.:-]+$"
_ARGUMENT = r"^[^\x00]*$"
_ENVIRONMENT_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
_MEDIA_HOST = r"^\.?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$"
_CRON = r"^(\S+ ){4}\S+$"
_REGISTRY = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9._-]+)*$"
_BACKUP = r"^[^\s@]+$"
_IMAGE = r"^[a-z0-9][a-z0-9./:_-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$"
_INTERFACE = r"^[A-Za-z0-9._-]{1,15}$"
_TOKEN_LABEL = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,31}$"
_ABSOLUTE = r"^/[A-Za-z0-9._/+-]+$"
_GROUP = r"^[a-z_][a-z0-9_-]{0,31}$"
_MAIL_DOMAIN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$"
_VERSION_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"
PATTERNS = {
    _NAME: "1 to 63 lower-case letters, digits, `-` and `.`, starting and ending with a letter or digit",
    _MODEL_NAME: "1 to 128 letters, digits and `.`, `_`, `:`, `/`, `-`, starting with a letter or digit",
    _MODEL_ALIAS: "1 to 128 letters, digits and `.`, `_`, `:`, `/`, `-`, starting with a letter or digit; "
    "a `*` at the end stands for any rest",
    _ARGUMENT: "text without a NUL byte",
    _ENVIRONMENT_NAME: "letters, digits and `_`, not starting with a digit",
    _HOST: "a host name or an IP address, such as `127.0.0.1`",
    _MEDIA_HOST: "a host name in lower case, such as `images.example.com`, or `.example.com` for every host "
    "below it",
    _CRON: "five fields of cron, such as `0 2 * * *`",
    _REGISTRY: "a registry's host, with a port and a path if need be, such as `registry.example.com/mirror`",
    _BACKUP: "where backups go, without credentials, such as `s3:https://s3.example.com/backups`",
    _IMAGE: "an image with its tag or digest, such as `registry.example.com/trainer:3.2`",
    _TOKEN_LABEL: "1 to 32 letters, digits, spaces and `.`, `_`, `-`, starting with a letter or digit",
    _ABSOLUTE: "an absolute path of letters, digits and `.`, `_`, `/`, `+`, `-`",
    _GROUP: "a group of Linux, such as `softhsm`",
    _MAIL_DOMAIN: "a mail domain in lower case, such as `example.com`; it stands for those below it too",
    _VERSION_NAME: "1 to 40 letters, digits and `.`, `_`, `-`, such as `2026-11`",
    _INTERFACE: "a network interface of Linux, such as `eth0`",
}
"""What the patterns mean, for error messages and the reference page."""


class Section(BaseModel):
    """Base of all parts: immutable, strictly typed, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _secret_reference(value: str) -> str:
    if SECRET_REFERENCE.fullmatch(value):
        return value
    raise PydanticCustomError(
        "secret_inlined",
        "a secret stands in the document",
        {
            "expected": "a reference to a secret: env:NAME, file:/path or sealed:/path",
            "write": "put it in a file of mode 0600 and write `file:/path/to/it`; "
            "replace it at its issuer if this file was shared",
        },
    )


def _url(value: str) -> str:
    found = re.fullmatch(
        r"(https?)://(?:([^/@]*)@)?([^/:?#\s]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/[^?#\s]*)?", value
    )
    if found is None or int((found.group(4) or ":1")[1:]) not in range(1, 65536):
        raise PydanticCustomError(
            "url",
            "not a URL of an API root",
            {
                "expected": "http:// or https://, a host, and the path of the API root",
                "write": "for example `https://api.deepseek.com/v1`",
            },
        )
    if found.group(2) is not None:
        raise PydanticCustomError(
            "secret_inlined",
            "the URL holds a user name or password",
            {"expected": "a URL without credentials", "write": "put the key into `api_key: env:NAME`"},
        )
    return value.rstrip("/")


def _origin(value: str) -> str:
    if value == "*" or re.fullmatch(r"https?://[^/\s*@?#]+", value):
        return value
    raise PydanticCustomError(
        "origin",
        "not a web origin",
        {
            "expected": "scheme, host and port without a path, or `*`",
            "write": "for example `https://chat.example.com`",
        },
    )


def _proxy_network(value: str) -> str:
    """A network in its plain form. One of all addresses is refused: whoever calls would name the caller."""
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        network = None
    if network is not None and network.prefixlen:
        return str(network)
    raise PydanticCustomError(
        "network",
        "not a network of proxies" if network is None else "every address would be a trusted proxy",
        {
            "expected": "an address or a network in CIDR form, whose bits after the prefix are zero",
            "write": "for example `10.1.0.0/24`, or the proxy's own address, as `127.0.0.1`",
        },
    )


def _beside_document(value: str, info: ValidationInfo) -> str:
    """A path as written, taken from the document's folder when relative."""
    folder = (info.context or {}).get("folder")
    return str(Path(folder, value)) if folder is not None else value


def _source(value: str, info: ValidationInfo) -> str:
    """What to load: a path is taken from the document's folder, a name to fetch is left as it is."""
    if re.match(r"[\x00-\x20]|.*[\x00-\x1f]", value):
        raise PydanticCustomError(
            "source",
            "not a model's source",
            {
                "expected": "a path, `hf:org/name` or `modelscope:org/name`",
                "write": "for example `model.gguf`",
            },
        )
    if re.match(r"(hf|modelscope):", value):
        return value
    looks_local = value.startswith(("/", "./", "../", "~")) or value.endswith(".gguf") or "/" not in value
    if not looks_local and not _beside(value, info).exists():
        return value
    return str(_beside(value, info))


def _beside(value: str, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    path = Path(value).expanduser()
    return path if folder is None else Path(folder, path)


Name = Annotated[str, Field(pattern=_NAME)]
ModelName = Annotated[str, Field(pattern=_MODEL_NAME)]
ModelAlias = Annotated[str, Field(pattern=_MODEL_ALIAS)]
SecretReference = Annotated[str, AfterValidator(_secret_reference), Field(examples=["env:DEEPSEEK_API_KEY"])]
Origin = Annotated[str, AfterValidator(_origin)]
ProxyNetwork = Annotated[str, AfterValidator(_proxy_network), Field(examples=["10.1.0.0/24"])]
HttpUrl = Annotated[str, AfterValidator(_url), Field(examples=["https://api.deepseek.com/v1"])]
FilePath = Annotated[str, Field(min_length=1), AfterValidator(_beside_document)]
ModelSource = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_source)]
Argument = Annotated[str, Field(max_length=4096, pattern=_ARGUMENT)]
Program = Annotated[str, Field(min_length=1, max_length=4096, pattern=_ARGUMENT)]
EnvironmentName = Annotated[str, Field(pattern=_ENVIRONMENT_NAME)]
Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(min_length=1, max_length=253, pattern=_HOST)]
MediaHost = Annotated[str, Field(min_length=3, max_length=253, pattern=_MEDIA_HOST)]
Cron = Annotated[str, Field(max_length=100, pattern=_CRON)]
Registry = Annotated[str, Field(max_length=255, pattern=_REGISTRY)]
BackupPlace = Annotated[str, Field(min_length=1, max_length=1024, pattern=_BACKUP)]
ImageName = Annotated[str, Field(max_length=512, pattern=_IMAGE)]
Interface = Annotated[str, Field(pattern=_INTERFACE)]
TokenLabel = Annotated[str, Field(pattern=_TOKEN_LABEL)]
AbsolutePath = Annotated[str, Field(max_length=1024, pattern=_ABSOLUTE)]
Group = Annotated[str, Field(pattern=_GROUP)]
MailDomain = Annotated[str, Field(max_length=189, pattern=_MAIL_DOMAIN)]
VersionName = Annotated[str, Field(pattern=_VERSION_NAME)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Positive = Annotated[float, Field(gt=0)]


def items(*, least: int = 0, most: int) -> Any:
    """A bounded list, kept as a tuple."""
    return Field(strict=False, min_length=least, max_length=most)
