"""Images and sounds in a request: which there are, whether they are what they say, and how much.

Flow 1 (serve): a dialect names the parts (`Part`) while it reads the request, `check` looks at each before
the request is admitted, and `fetching.py` gets those that may be fetched. Nothing is unpacked, and nothing is
changed: the engine gets the parts as they came, a fetched image as a data URL in place of its own.
Neighbours: `media_formats.py` (bytes), `flow.py` (the only caller of `check`).
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal, NoReturn
from urllib.parse import SplitResult, urlsplit

import msgspec

from sextant.base.errors import BadRequest, BodyTooLarge
from sextant.gateway.media_formats import NotWhole, read_audio, read_image
from sextant.spec.snapshot import GatewayLimits, ServedModel
from sextant.transport.addresses import leads_inside

IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
AUDIO_FORMATS = ("wav", "mp3")
HEAD_CHARS = 128
"""Of a data URL, up to its comma."""
HTTPS_PORT = 443
_convert = msgspec.convert


class Part(msgspec.Struct):
    """One image or sound. `holder` is the object of the engine's request in which it stands (under `url` or
    `data`), `field` its name in the caller's own terms, `format` what a sound is said to be."""

    kind: Literal["image", "audio"]
    field: str
    holder: dict[str, Any]
    format: str = ""


class Media(msgspec.Struct):
    """The parts of one request, and what `check` found: their bytes in the body and decoded, and those that
    are to be fetched."""

    parts: list[Part]
    body_bytes: int = 0
    image_bytes: int = 0
    audio_bytes: int = 0
    to_fetch: list[Part] = []
    holds_place: bool = False
    """It has one of `GatewayLimits.media_fetches`."""

    def add(self, part: Part, size_bytes: int, limits: GatewayLimits) -> None:
        """Counts one part. Raises BodyTooLarge when all together are too much."""
        if part.kind == "image":
            self.image_bytes += size_bytes
        else:
            self.audio_bytes += size_bytes
        if self.image_bytes + self.audio_bytes > limits.media_bytes:
            raise BodyTooLarge(
                f"The images and sounds of this request are more than {limits.media_bytes} bytes together; "
                "send fewer or smaller ones.",
                field=part.field,
            )

    def count(self, kind: Literal["image", "audio"]) -> int:
        return sum(part.kind == kind for part in self.parts)


def check(media: Media, served: ServedModel, limits: GatewayLimits) -> None:
    """Looks at every part. Raises BadRequest (BodyTooLarge for a size) naming the first wrong one."""
    if len(media.parts) > limits.media_parts:
        raise BadRequest(
            f"This request has {len(media.parts)} images and sounds; at most {limits.media_parts} are taken.",
            field=media.parts[limits.media_parts].field,
            code="too_many_media",
        )
    for part in media.parts:
        if part.kind == "audio":
            _check_audio(media, part, limits)
            continue
        url = part.holder["url"]
        if url[:5].lower() == "data:":
            _check_data_url(media, part, url, limits)
        else:
            _check_remote(media, part, served, limits)


def check_image(part: Part, data: bytes, limits: GatewayLimits) -> str:
    """The media type of a whole image within the bounds. Raises BadRequest."""
    try:
        image = read_image(data)
    except NotWhole as error:
        raise BadRequest(f"`{part.field}`: {error}.", field=part.field, code="invalid_image") from None
    if not image.width or not image.height:
        raise BadRequest(f"`{part.field}`: the image is empty.", field=part.field, code="invalid_image")
    if image.width * image.height > limits.media_pixels:
        raise BadRequest(
            f"`{part.field}` has {image.width} x {image.height} pixels; at most {limits.media_pixels} are "
            "taken. Scale it down.",
            field=part.field,
            code="image_too_large",
        )
    return image.media_type


def _check_audio(media: Media, part: Part, limits: GatewayLimits) -> None:
    if part.format not in AUDIO_FORMATS:
        raise BadRequest(
            f"`{part.field}` is declared {part.format[:40]!r}; `wav` and `mp3` are read here.",
            field=part.field,
            code="unsupported_audio",
        )
    text = part.holder["data"]
    data = _decoded(part, text, limits)
    try:
        found = read_audio(data)
    except NotWhole as error:
        raise BadRequest(f"`{part.field}`: {error}.", field=part.field, code="invalid_audio") from None
    if found != part.format:
        _mislabelled(part, part.format, found)
    media.body_bytes += len(text)
    media.add(part, len(data), limits)


def _check_data_url(media: Media, part: Part, url: str, limits: GatewayLimits) -> None:
    comma = url.find(",", 0, HEAD_CHARS)
    declared, _, encoding = url[5:comma].partition(";")
    declared = declared.lower()
    if comma < 0 or encoding.lower() != "base64":
        raise BadRequest(
            f"`{part.field}` is no data URL of the form data:image/png;base64,….",
            field=part.field,
            code="invalid_image",
        )
    if declared not in IMAGE_TYPES:
        raise BadRequest(
            f"`{part.field}` is declared {declared[:40]!r}; PNG, JPEG, GIF and WebP are read here.",
            field=part.field,
            code="unsupported_image",
        )
    data = _decoded(part, url[comma + 1 :], limits)
    found = check_image(part, data, limits)
    if found != declared:
        _mislabelled(part, declared, found)
    media.body_bytes += len(url)
    media.add(part, len(data), limits)


def _mislabelled(part: Part, declared: str, found: str) -> NoReturn:
    raise BadRequest(
        f"`{part.field}` is declared {declared}, but its bytes are {found}; declare what it is.",
        field=part.field,
        code="media_type_mismatch",
    )


def _decoded(part: Part, text: str, limits: GatewayLimits) -> bytes:
    """The bytes of strict base64: its alphabet alone, padded, nothing behind the padding."""
    if len(text) // 4 * 3 - 2 > limits.media_part_bytes:
        raise too_large(part, limits.media_part_bytes)
    try:
        data: bytes = _convert(text, bytes)  # four times as fast as binascii, which also lets `AAAA=` pass
    except msgspec.ValidationError:
        raise BadRequest(
            f"`{part.field}` is not valid base64 (RFC 4648: padded, no line breaks); it may be cut off.",
            field=part.field,
            code="invalid_base64",
        ) from None
    if len(data) > limits.media_part_bytes:
        raise too_large(part, limits.media_part_bytes)
    return data


def too_large(part: Part, most_bytes: int) -> BodyTooLarge:
    """The error for one part over its bound."""
    return BodyTooLarge(
        f"`{part.field}` is more than {most_bytes} bytes; send a smaller one.", field=part.field
    )


def _check_remote(media: Media, part: Part, served: ServedModel, limits: GatewayLimits) -> None:
    """An https URL goes to the engine, is fetched, or is refused, as the operator has it."""
    url = split_url(part)
    host = url.hostname or ""
    if host_allowed(host, limits.media_hosts):
        media.to_fetch = [*media.to_fetch, part]
    elif served.media_urls != "pass":
        raise BadRequest(
            f"`{part.field}` is a URL, and this server fetches nothing from {host[:100]!r}; send the image "
            "itself as data:image/png;base64,…, or have the operator add the host to "
            "spec.gateway.limits.media_hosts.",
            field=part.field,
            code="url_not_allowed",
        )
    elif leads_inside(host):
        raise BadRequest(
            f"`{part.field}` is a URL of {host[:100]!r}, which is no host of the public Internet; send the "
            "image itself as data:image/png;base64,….",
            field=part.field,
            code="url_not_allowed",
        )


def split_url(part: Part) -> SplitResult:
    """The part's URL, taken apart. Raises BadRequest unless it is plain https to a named host."""
    text: str = part.holder["url"]
    url, port = urlsplit(""), None
    if text.isascii() and text.isprintable() and " " not in text and "\\" not in text:
        with contextlib.suppress(ValueError):  # brackets that hold no address, a port that is no number
            found = urlsplit(text)
            port = found.port
            url = found
    if url.scheme != "https" or not url.hostname or "@" in url.netloc or port not in (None, HTTPS_PORT):
        raise BadRequest(
            f"`{part.field}` must be a data URL (data:image/png;base64,…) or an https URL without user name "
            f"and port, percent-encoded.",
            field=part.field,
            code="invalid_url",
        )
    return url


def host_allowed(host: str, hosts: tuple[str, ...]) -> bool:
    """Whether `host` is on the list, or below one of its names that begin with a dot."""
    host = host.lower().removesuffix(".")
    return any(host == name or (name[0] == "." and host.endswith(name)) for name in hosts)
