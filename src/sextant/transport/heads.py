"""The strict reading of message heads, requests and responses alike: pure functions over bytes.

Stands first in flow 1: a head that passes here is then shown to llhttp (`opinion.py`), and both must accept
it. llhttp alone takes HTTP/0.9, several or no Host, `gzip, chunked`, HTTP/2.0 and heads without bound; see
`docs/concepts/transport.md` for every rule and its reason. The caller has found the blank line and counted
the bytes before any of this runs.
"""

from __future__ import annotations

import re

from sextant.spec.snapshot import GatewayLimits
from sextant.transport.exchange import Header
from sextant.transport.refusals import Refusal

CHUNKED = -1
"""`length` of a message whose body is chunked."""
UNTIL_CLOSE = -2
"""`length` of an answer whose body ends with the connection."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELD_LINE = re.compile(rb"(" + _TOKEN + rb"++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"++) ([\x21-\x7e]++) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*+)?")
_PATH = rb"/[A-Za-z0-9\-._~%!$&'()*+,;=:@/]*+"
_QUERY = rb"[A-Za-z0-9\-._~%!$&'()*+,;=:@/?\[\]]*+"
_ORIGIN_FORM = re.compile(rb"(" + _PATH + rb")(?:\?(" + _QUERY + rb"))?")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@]++)(.*+)", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9\-._]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{1,5}+)?")
_TOKEN_BYTE = re.compile(_TOKEN)
_BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\0")
_LENGTH = re.compile(rb"[0-9]{1,15}")

METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
SINGLE = (
    b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding",
    b"authorization", b"expect",
)  # fmt: skip
"""Headers that two parsers could read differently when they come twice: refused."""
_SECRET = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"x-api-key", b"api-key"))

LINE_MEMO_ENTRIES = 2048
LINE_MEMO_BYTES = 160
TARGET_MEMO_ENTRIES = 256


class BadHead(ValueError):
    """A line of a head breaks the grammar."""


class FieldLines(dict[bytes, Header]):
    """Header lines already checked and split, by their exact bytes: clients repeat nearly all of theirs.

    A miss is parsed strictly. Bounded by LINE_MEMO_ENTRIES and LINE_MEMO_BYTES; lines that carry secrets are
    never kept.
    """

    def __missing__(self, line: bytes) -> Header:
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise BadHead("a malformed header line")
        name, value = match.groups()
        header = (name.lower(), value.rstrip(b" \t"))
        if len(line) <= LINE_MEMO_BYTES and header[0] not in _SECRET:
            if len(self) >= LINE_MEMO_ENTRIES:
                self.clear()
            self[line] = header
        return header


class RequestLines(dict[bytes, tuple[str, str, str, bytes | None, int]]):
    """Request lines already checked, to method, path, query, authority (absolute form) and minor version.

    Bounded by TARGET_MEMO_ENTRIES and LINE_MEMO_BYTES.
    """

    def __missing__(self, line: bytes) -> tuple[str, str, str, bytes | None, int]:
        parsed = _parse_request_line(line)
        if len(line) <= LINE_MEMO_BYTES:
            if len(self) >= TARGET_MEMO_ENTRIES:
                self.clear()
            self[line] = parsed
        return parsed


class RequestHead:
    """A request's head. `length` is the body's bytes or CHUNKED; `keep_alive` what the client wishes;
    `expects` that it waits for 100 Continue."""

    __slots__ = ("expects", "fields", "headers", "keep_alive", "length", "method", "minor", "path", "query")

    def __init__(self, line: tuple[str, str, str, bytes | None, int], headers: list[Header]) -> None:
        self.method, self.path, self.query, _, self.minor = line
        self.headers = headers
        self.fields = dict(headers)
        self.length = 0
        self.expects = False
        self.keep_alive = self.minor == 1


class ResponseHead:
    """An answer's head. `length` is the body's bytes, CHUNKED or UNTIL_CLOSE, unless it answers a HEAD."""

    __slots__ = ("headers", "keep_alive", "length", "status")

    def __init__(self, status: int, headers: list[Header]) -> None:
        self.status = status
        self.headers = headers
        self.length = UNTIL_CLOSE
        self.keep_alive = True


_request_lines = RequestLines()
_field_lines = FieldLines()


def parse_request_head(data: bytes, end: int, limits: GatewayLimits) -> RequestHead:
    """Reads `data[:end]`, a head with its blank line. Raises Refusal."""
    lines = data[: end - 4].split(b"\r\n")
    if len(lines) - 1 > limits.header_count:
        raise Refusal("too_many_headers")
    first = lines[0]
    if len(first) > limits.target_bytes:
        check_target_length(first, limits)
    line = _request_lines[first]
    del lines[0]
    fields = _field_lines
    try:
        head = RequestHead(line, [fields[field] for field in lines])
    except BadHead:
        raise Refusal("bad_header") from None
    _check_host(head, line[3])
    _frame_request(head)
    return head


def request_head(first: bytes, headers: list[Header]) -> RequestHead:
    """The same reading for a head that someone else has split (the ASGI twin). Raises Refusal."""
    line = _request_lines[first]
    head = RequestHead(line, headers)
    _check_host(head, line[3])
    _frame_request(head)
    return head


def clean_fields(headers: list[Header]) -> list[Header]:
    """The same headers as our own reading gives them (not every server trims values). Raises Refusal."""
    try:
        return [field_line(b"%b:%b" % header) for header in headers]
    except BadHead:
        raise Refusal("bad_header") from None


def parse_response_head(data: bytes, end: int) -> ResponseHead:
    """Reads `data[:end]`, an answer's head with its blank line. Raises BadHead."""
    lines = data[: end - 4].split(b"\r\n")
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise BadHead("the status line is malformed")
    fields = _field_lines
    del lines[0]
    head = ResponseHead(int(match[2]), [fields[line] for line in lines])
    _frame_response(head, match[1] == b"1")
    return head


def check_target_length(line: bytes, limits: GatewayLimits) -> None:
    """Raises Refusal when the (perhaps unfinished) request line holds a target over the limit."""
    start = line.find(b" ") + 1
    stop = line.find(b" ", start)
    target_bytes = (len(line) if stop < 0 else stop) - start
    if start > 0 and target_bytes > limits.target_bytes:
        raise Refusal("target_too_long")


def check_partial(data: bytes, start: int, limits: GatewayLimits) -> None:
    """Refuses an unfinished head early when it, looked at from `start`, cannot become valid."""
    if _TOKEN_BYTE.match(data) is None:
        raise Refusal("bad_request_line")
    if len(data) > limits.target_bytes:
        check_target_length(data.partition(b"\r\n")[0], limits)
    if _BARE_LINE_END.search(data, start) is not None:
        raise Refusal("bad_line_end")


def field_line(line: bytes) -> Header:
    """One header or trailer line, checked and split. Raises BadHead."""
    return _field_lines[line]


def _parse_request_line(line: bytes) -> tuple[str, str, str, bytes | None, int]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise Refusal("bad_line_end" if b"\n" in line or b"\r" in line else "bad_request_line")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise Refusal("unsupported_version")
    name = METHODS.get(method)
    if name is None:
        raise Refusal("unknown_method")
    authority = None
    if target == b"*" and name == "OPTIONS":
        return name, "*", "", None, int(minor)
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is not None:
        authority, target = absolute.groups()
        if not target.startswith(b"/"):
            target = b"/" + target
    parts = _ORIGIN_FORM.fullmatch(target)
    if parts is None:
        raise Refusal("bad_target")
    path, query = parts.groups()
    return name, path.decode("ascii"), (query or b"").decode("ascii"), authority, int(minor)


def _check_host(head: RequestHead, authority: bytes | None) -> None:
    fields = head.fields
    if len(fields) != len(head.headers):
        _check_duplicates(head)
    host = fields.get(b"host")
    if host is None:
        if head.minor == 1:
            raise Refusal("missing_host")
    elif _HOST.fullmatch(host) is None:
        raise Refusal("bad_host")
    if authority is not None and (host is None or host.lower() != authority.lower()):
        raise Refusal("host_mismatch")


def _check_duplicates(head: RequestHead) -> None:
    """Refuses a repeated SINGLE header; of others the first value is the one looked up."""
    names = [name for name, _ in head.headers]
    if any(names.count(name) > 1 for name in SINGLE):
        raise Refusal("duplicate_header")
    head.fields = dict(reversed(head.headers))


def _frame_request(head: RequestHead) -> None:
    fields = head.fields
    coding = fields.get(b"transfer-encoding")
    length = fields.get(b"content-length")
    if coding is not None:
        if length is not None or head.minor == 0:
            raise Refusal("conflicting_length")
        if coding.lower() != b"chunked":
            raise Refusal("unknown_transfer_encoding")
        head.length = CHUNKED
    elif length is not None:
        if _LENGTH.fullmatch(length) is None:
            raise Refusal("bad_content_length")
        head.length = int(length)
    if b"upgrade" in fields:
        raise Refusal("upgrade")
    expect = fields.get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise Refusal("bad_expectation")
        head.expects = head.minor == 1
    if b"connection" in fields and _says_close(head.headers):
        head.keep_alive = False


def _frame_response(head: ResponseHead, persistent: bool) -> None:
    coding: bytes | None = None
    length: bytes | None = None
    for name, value in head.headers:
        if name == b"content-length":
            if length is not None:
                raise BadHead("two Content-Length headers")
            length = value
        elif name == b"transfer-encoding":
            if coding is not None:
                raise BadHead("two Transfer-Encoding headers")
            coding = value
        elif name == b"connection" and value != b"keep-alive":
            head.keep_alive = not _says_close(head.headers)
    if coding is not None:
        if length is not None:
            raise BadHead("Content-Length and Transfer-Encoding together")
        if coding.lower() != b"chunked" or not persistent:
            raise BadHead("a transfer encoding other than chunked")
        head.length = CHUNKED
    elif length is not None:
        if _LENGTH.fullmatch(length) is None:
            raise BadHead("Content-Length is not a number")
        head.length = int(length)
    if not persistent:
        head.keep_alive = False


def _says_close(headers: list[Header]) -> bool:
    for name, value in headers:
        if name == b"connection" and b"close" in [part.strip(b" \t") for part in value.lower().split(b",")]:
            return True
    return False
