"""Style sheets, scripts and the mark: read once, served under an address that names their content.

An address never changes its content, so browsers keep it for good; a new version has new addresses.
"""

from __future__ import annotations

import hashlib
import mimetypes
from importlib import resources

import msgspec
from starlette.responses import Response

PREFIX = "/portal/static"
_HASH_CHARACTERS = 16
_SUFFIXES = (".css", ".js", ".svg")


class StaticFile(msgspec.Struct, frozen=True):
    """One file as it is served."""

    url: str
    media_type: str
    data: bytes


class StaticFiles:
    """All files of `static/` by name."""

    def __init__(self) -> None:
        folder = resources.files("sextant.console").joinpath("static")
        self._files = {
            one.name: _read(one.name, one.read_bytes())
            for one in folder.iterdir()
            if one.name.endswith(_SUFFIXES)
        }

    def url(self, name: str) -> str:
        """The address of a file. Raises KeyError for one that is not there."""
        return self._files[name].url

    def answer(self, digest: str, name: str) -> Response | None:
        """A file by its address; None where there is none, or not with this content."""
        found = self._files.get(name)
        if found is None or found.url != f"{PREFIX}/{digest}/{name}":
            return None
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(found.data, media_type=found.media_type, headers=headers)


def _read(name: str, data: bytes) -> StaticFile:
    digest = hashlib.sha256(data).hexdigest()[:_HASH_CHARACTERS]
    media_type = mimetypes.types_map.get(f".{name.rpartition('.')[2]}", "text/plain")
    return StaticFile(f"{PREFIX}/{digest}/{name}", media_type, data)
