"""The strict reading of message heads, requests and responses alike: pure functions over bytes.

Stands first in flow 1: a head that passes here is then shown to llhttp (`opinion.py`), and both must accept
it. llhttp alone takes HTTP/0.9, several or no Host, `gzip, chunked`, HTTP/2.0 and heads without bound; see
`docs/concepts/transport.md` for every rule and its reason. The caller has found the blank line and counted
the bytes before any of this runs.
"""

from __future__ import annotations

import re

from sextant.spec.snapshot import GatewayLimits
from sextant.transport.exchange import Header, Headers
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
LENGTH_DIGITS = 15
_LENGTH = re.compile(rb"[0-9]{1,%d}" % LENGTH_DIGITS)

METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
SINGLE = (
    b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding",
    b"authorization", b"expect",
)  # fmt: skip
"""Headers that two parsers could read differently when they come twice: refused."""
_NEVER_TRAILERS = frozenset(
    (
        b"content-length", b"transfer-encoding", b"content-encoding", b"content-type", b"host", b"connection",
        b"upgrade", b"expect", b"te", b"trailer", b"authorization",
    )
)  # fmt: skip
_SECRET = re.compile(rb"auth|cookie|credential|key|password|secret|session|signature|token")

STATUS_MAX = 599
LINE_MEMO_ENTRIES = 2048
LINE_MEMO_BYTES = 160
TARGET_MEMO_ENTRIES = 256

RequestLine = tuple[str, str, str, bytes | None, int]
"""Method, path, query, authority (of an absolute-form target) and minor version."""


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
        self.check(*header)
        if len(line) <= LINE_MEMO_BYTES and _SECRET.search(header[0]) is None:
            if len(self) >= LINE_MEMO_ENTRIES:
                self.clear()
            self[line] = header
        return header

    def check(self, name: bytes, value: bytes) -> None:
        """What must hold of this one header, whatever the others say."""


class RequestFields(FieldLines):
    """Of requests. Raises Refusal for a header that is wrong by itself."""

    def check(self, name: bytes, value: bytes) -> None:
        if name == b"host" and _HOST.fullmatch(value) is None:
            raise Refusal("bad_host")
        if name == b"content-length" and _LENGTH.fullmatch(value) is None:
            raise Refusal("bad_content_length")
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            raise Refusal("unknown_transfer_encoding")
        if name == b"expect" and value.lower() != b"100-continue":
            raise Refusal("bad_expectation")
        if name == b"upgrade":
            raise Refusal("upgrade")


class AnswerFields(FieldLines):
    """Of answers. Raises BadHead for a header that is wrong by itself."""

    def check(self, name: bytes, value: bytes) -> None:
        if name == b"content-length" and _LENGTH.fullmatch(value) is None:
            raise BadHead("Content-Length is not a number")
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            raise BadHead("a transfer encoding other than chunked")


class TrailerFields(FieldLines):
    """Of chunked bodies. Raises BadHead for one that would change how the message is read."""

    def check(self, name: bytes, value: bytes) -> None:
        if name in _NEVER_TRAILERS:
            raise BadHead("a trailer that belongs in the head")


class RequestLines(dict[bytes, RequestLine]):
    """Request lines already checked; none with a query, which may hold a secret or be unlike any other.

    Bounded by TARGET_MEMO_ENTRIES and LINE_MEMO_BYTES.
    """

    def __missing__(self, line: bytes) -> RequestLine:
        parsed = _parse_request_line(line)
        if len(line) <= LINE_MEMO_BYTES and not parsed[2]:
            if len(self) >= TARGET_MEMO_ENTRIES:
                self.clear()
            self[line] = parsed
        return parsed


class StatusLines(dict[bytes, tuple[int, bool]]):
    """Status lines already checked, to the status and whether it is HTTP/1.1. Bounded as the others."""

    def __missing__(self, line: bytes) -> tuple[int, bool]:
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise BadHead("a malformed status line")
        parsed = (int(match[2]), match[1] == b"1")
        if parsed[0] > STATUS_MAX:
            raise BadHead("a status over 599")
        if len(line) <= LINE_MEMO_BYTES:
            if len(self) >= TARGET_MEMO_ENTRIES:
                self.clear()
            self[line] = parsed
        return parsed


class RequestHead:
    """A request's head. `fields` gives a header's first value; `length` is the body's bytes or CHUNKED;
    `keep_alive` what the client wishes; `expects` that it waits for 100 Continue."""

    __slots__ = ("expects", "fields", "headers", "keep_alive", "length", "line")

    def __init__(self, line: RequestLine, headers: tuple[Header, ...], fields: dict[bytes, bytes]) -> None:
        self.line = line
        self.headers = headers
        self.fields = fields
        self.length = 0
        self.expects = False
        self.keep_alive = True

    def again_of(self, place: int, digits: bytes) -> RequestHead:
        """Itself with another length, which is header number `place`; what was given out is left alone."""
        self.headers = _with_length(self.headers, place, digits)
        self.fields = fields = self.fields.copy()
        fields[b"content-length"] = digits
        self.length = int(digits)
        return self


class ResponseHead:
    """An answer's head. `length` is the body's bytes, CHUNKED or UNTIL_CLOSE, unless it answers a HEAD."""

    __slots__ = ("headers", "keep_alive", "length", "status")

    def __init__(self, status: int, headers: tuple[Header, ...], length: int, keep_alive: bool) -> None:
        self.status = status
        self.headers = headers
        self.length = length
        self.keep_alive = keep_alive

    def again_of(self, place: int, digits: bytes) -> ResponseHead:
        """Itself with another length, which is header number `place`; what was given out is left alone."""
        self.headers = _with_length(self.headers, place, digits)
        self.length = int(digits)
        return self


def _with_length(headers: tuple[Header, ...], place: int, digits: bytes) -> tuple[Header, ...]:
    return (*headers[:place], (b"content-length", digits), *headers[place + 1 :])


_request_lines = RequestLines()
_status_lines = StatusLines()
_request_fields = RequestFields()
_answer_fields = AnswerFields()
_trailer_fields = TrailerFields()
_request_field = _request_fields.__getitem__
_answer_field = _answer_fields.__getitem__


def parse_request_head(data: bytes, end: int, limits: GatewayLimits) -> RequestHead:
    """Reads `data[:end]`, a head with its blank line. Raises Refusal."""
    lines = data[: end - 4].split(b"\r\n")
    if len(lines) > limits.header_count + 1:
        raise Refusal("too_many_headers")
    first = lines[0]
    if len(first) > limits.target_bytes:
        check_target_length(first, limits)
    line = _request_lines[first]
    del lines[0]
    try:
        headers = tuple(map(_request_field, lines))
    except BadHead:
        raise Refusal("bad_header") from None
    return frame_request(line, headers)


def parse_split_head(first: bytes, headers: Headers) -> RequestHead:
    """The same reading for a head that someone else has split (the ASGI twin). Raises Refusal."""
    try:
        cleaned = tuple(_request_field(b"%b:%b" % header) for header in headers)
    except BadHead:
        raise Refusal("bad_header") from None
    return frame_request(_request_lines[first], cleaned)


def parse_response_head(data: bytes, end: int) -> ResponseHead:
    """Reads `data[:end]`, an answer's head with its blank line. Raises BadHead."""
    lines = data[: end - 4].split(b"\r\n")
    status, persistent = _status_lines[lines[0]]
    del lines[0]
    headers = tuple(map(_answer_field, lines))
    fields = dict(headers)
    if len(fields) != len(headers):
        names = [name for name, _ in headers]
        if names.count(b"content-length") > 1 or names.count(b"transfer-encoding") > 1:
            raise BadHead("a length given twice")
    size = fields.get(b"content-length")
    length = UNTIL_CLOSE if size is None else int(size)
    if b"transfer-encoding" in fields:
        if size is not None or not persistent:
            raise BadHead("Transfer-Encoding with Content-Length, or in HTTP/1.0")
        length = CHUNKED
    keep_alive = persistent
    if keep_alive and fields.get(b"connection", b"keep-alive") != b"keep-alive":
        keep_alive = not _says_close(headers)
    return ResponseHead(status, headers, length, keep_alive)


def frame_request(line: RequestLine, headers: tuple[Header, ...]) -> RequestHead:
    """What the headers say together: where the body ends, what becomes of the connection. Raises Refusal."""
    fields = dict(headers)
    if len(fields) != len(headers):
        fields = _first_values(headers)
    head = RequestHead(line, headers, fields)
    host = fields.get(b"host")
    if host is None and line[4] == 1:
        raise Refusal("missing_host")
    if line[3] is not None and (host is None or host.lower() != line[3].lower()):
        raise Refusal("host_mismatch")
    size = fields.get(b"content-length")
    if size is not None:
        head.length = int(size)
    if b"transfer-encoding" in fields:
        if size is not None or line[4] == 0:
            raise Refusal("conflicting_length")
        head.length = CHUNKED
    if line[4] == 0:
        head.keep_alive = False
    elif b"expect" in fields:
        head.expects = True
    if b"connection" in fields and _says_close(headers):
        head.keep_alive = False
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


def check_trailer(line: bytes) -> None:
    """Raises BadHead unless `line` is a lawful trailer."""
    _trailer_fields[line]


def _parse_request_line(line: bytes) -> RequestLine:
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


def _first_values(headers: tuple[Header, ...]) -> dict[bytes, bytes]:
    """By name, when some come several times. Raises Refusal when that is one of SINGLE."""
    names = [name for name, _ in headers]
    if any(names.count(name) > 1 for name in SINGLE):
        raise Refusal("duplicate_header")
    return dict(reversed(headers))


def _says_close(headers: tuple[Header, ...]) -> bool:
    for name, value in headers:
        if name == b"connection" and b"close" in [part.strip(b" \t") for part in value.lower().split(b",")]:
            return True
    return False
