"""The line to the centre: one batch in one POST, and what its answer means.

A connection a batch: batches are rare, and a line that was cut leaves nothing half alive. Redirects are not
followed, since they would carry the credential elsewhere. Neighbours: `forwarding.py` (what to send when).
"""

from __future__ import annotations

import gzip
import http.client
import ssl
from collections.abc import Callable
from urllib.parse import quote, urlsplit

import msgspec

from sextant.base.errors import Misconfigured
from sextant.spec.sites import SiteAnswer, SiteBatch

TIMEOUT_S = 30.0
"""Longest silence of the centre."""
ANSWER_BYTES_MAX = 64 * 1024
ABOUT_THE_BATCH = (400, 413, 422)


class Unreachable(Exception):
    """No answer, or none that says anything about the batch: later, perhaps."""


class Refused(Exception):
    """The centre answered and does not want it. `by_content`: for what is in the batch."""

    def __init__(self, message: str, *, by_content: bool) -> None:
        super().__init__(message)
        self.by_content = by_content


class Centre(msgspec.Struct, frozen=True):
    """Where the centre's admin API is, and which site we are there."""

    url: str
    site: str
    ca_file: str = ""
    """Certificates to trust instead of the system's."""


class Courier:
    """The way to one centre. `credential` is asked for each time, so that a renewed one is used at once."""

    def __init__(self, centre: Centre, credential: Callable[[], str]) -> None:
        self._centre = centre
        self._credential = credential
        parts = urlsplit(centre.url)
        self._path = f"{parts.path.rstrip('/')}/v1/sites/{quote(centre.site, safe='')}/usage"

    def send(self, batch: SiteBatch) -> SiteAnswer:
        """Raises Unreachable or Refused."""
        try:
            credential = self._credential()
        except Misconfigured as error:
            raise Refused(error.message, by_content=False) from None
        if not credential.isascii():
            raise Refused("the credential is no site's (sxsite-…): it is not ASCII", by_content=False)
        headers = {
            "Authorization": f"Bearer {credential}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
            "Connection": "close",
        }
        try:
            connection = self._connection()
        except OSError as error:
            raise Refused(f"the centre's certificates cannot be read: {error}", by_content=False) from None
        try:
            connection.request("POST", self._path, gzip.compress(msgspec.json.encode(batch), 6), headers)
            with connection.getresponse() as answer:
                status, said = answer.status, answer.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the centre {self._centre.url} does not answer: {_why(error)}") from None
        finally:
            connection.close()
        return _understood(status, said)

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._centre.url)
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
        context = ssl.create_default_context(cafile=self._centre.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=context)


class _Fault(msgspec.Struct, frozen=True):
    message: str = ""


class _Told(msgspec.Struct, frozen=True):
    error: _Fault = _Fault()


def _understood(status: int, said: bytes) -> SiteAnswer:
    if status == 200:
        try:
            return msgspec.json.decode(said, type=SiteAnswer)
        except msgspec.DecodeError as error:
            raise Unreachable(f"the centre's answer cannot be read: {error}") from None
    try:
        why = msgspec.json.decode(said, type=_Told).error.message
    except msgspec.DecodeError:
        why = ""
    told = f"the centre answers {status}{f': {why[:300]}' if why else ''}"
    if status in ABOUT_THE_BATCH:
        raise Refused(told, by_content=True)
    if status == 401:
        told = "the centre answers 401: it does not know the credential; `sextant site renew` there makes one"
        raise Refused(told, by_content=False)
    if status in (403, 404):
        raise Refused(f"{told}; is spec.centre.credential that of this site?", by_content=False)
    raise Unreachable(told)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return str(getattr(error, "strerror", None) or error or type(error).__name__).lower()
