# ruff: noqa: E501
"""Request byte streams with what we must make of them.

Each entry: a name, the bytes, how many requests a handler must see, and the status of the refusal that ends the
connection (None: no refusal).
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Entry:
    name: str
    data: bytes
    requests: int
    refused: int | None = None


HOST = b"Host: localhost\r\n"


def _get(rest: bytes = b"", line: bytes = b"GET /a HTTP/1.1") -> bytes:
    return line + b"\r\n" + HOST + rest + b"\r\n"


def _post(rest: bytes, body: bytes) -> bytes:
    return b"POST /a HTTP/1.1\r\n" + HOST + rest + b"\r\n" + body


def _chunked(body: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked\r\n", body)


ACCEPTED: list[Entry] = [
    Entry("plain get", _get(), 1),
    Entry("query", _get(line=b"GET /a?b=c&d=%20[1] HTTP/1.1"), 1),
    Entry("empty query", _get(line=b"GET /a? HTTP/1.1"), 1),
    Entry("dots are not folded", _get(line=b"GET /a/../b/./c HTTP/1.1"), 1),
    Entry("double slash", _get(line=b"GET //evil.example/x HTTP/1.1"), 1),
    Entry("options star", _get(line=b"OPTIONS * HTTP/1.1"), 1),
    Entry("http 1.0", b"GET /a HTTP/1.0\r\n\r\n", 1),
    Entry("http 1.0 with body", b"POST /a HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi", 1),
    Entry("two requests", _get() + _get(line=b"DELETE /b HTTP/1.1"), 2),
    Entry("post", _post(b"Content-Length: 5\r\n", b"hello"), 1),
    Entry("post then get", _post(b"Content-Length: 5\r\n", b"hello") + _get(), 2),
    Entry("post of length 0", _post(b"Content-Length: 0\r\n", b"") + _get(), 2),
    Entry("post without length", _post(b"", b"") + _get(), 2),
    Entry("get with body", _get(b"Content-Length: 3\r\n") + b"abc" + _get(), 2),
    Entry("leading zeros of a length", _post(b"Content-Length: 0005\r\n", b"hello"), 1),
    Entry("name in odd case", b"GET /a HTTP/1.1\r\nhOsT: localhost\r\n\r\n", 1),
    Entry("no space after the colon", b"GET /a HTTP/1.1\r\nHost:localhost\r\n\r\n", 1),
    Entry("blanks and tabs round a value", _get(b"X-A: \t a b \t \r\n"), 1),
    Entry("empty value", _get(b"X-A:\r\nX-B: \r\n"), 1),
    Entry("obs-text in a value", _get(b"X-A: caf\xc3\xa9 \xff\r\n"), 1),
    Entry("odd token name", _get(b"!#$%&'*+-.^_`|~09az: 1\r\n"), 1),
    Entry("repeated ordinary header", _get(b"X-A: 1\r\nX-A: 2\r\n"), 1),
    Entry("host with port", b"GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", 1),
    Entry("absolute form", b"GET http://localhost/a?b HTTP/1.1\r\n" + HOST + b"\r\n", 1),
    Entry("connection close", _get(b"Connection: close\r\n"), 1),
    Entry("connection close in a list", _get(b"Connection: foo, Close\r\n"), 1),
    Entry("keep-alive", _get(b"Connection: keep-alive\r\n") + _get(), 2),
    Entry("te trailers", _get(b"TE: trailers\r\n"), 1),
    Entry("chunked", _chunked(b"5\r\nhello\r\n0\r\n\r\n") + _get(), 2),
    Entry("chunked in capitals", _post(b"Transfer-Encoding: Chunked\r\n", b"0\r\n\r\n"), 1),
    Entry(
        "chunked many", _chunked(b"1\r\na\r\n2\r\nbc\r\nA\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"), 1
    ),
    Entry("chunk with leading zeros", _chunked(b"00005\r\nhello\r\n000\r\n\r\n"), 1),
    Entry("chunk holding a request", _chunked(b"1e\r\nGET /smuggled HTTP/1.1\r\n\r\nxxxx\r\n0\r\n\r\n"), 1),
    Entry("chunk extension", _chunked(b"5;a=b\r\nhello\r\n0\r\n\r\n"), 1),
    Entry("trailers", _chunked(b"5\r\nhello\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n") + _get(), 2),
    Entry("expect", _post(b"Content-Length: 2\r\nExpect: 100-continue\r\n", b"hi"), 1),
    Entry("body that looks like a head", _post(b"Content-Length: 19\r\n", b"GET / HTTP/1.1\r\n\r\n\n"), 1),
]

REFUSED: list[Entry] = [
    # request line
    Entry("http 0.9", b"GET /a\r\n\r\n", 0, 400),
    Entry("http 0.9 with headers", b"GET /a\r\n" + HOST + b"\r\n", 0, 400),
    Entry("http 2.0", _get(line=b"GET /a HTTP/2.0"), 0, 505),
    Entry("http 1.2", _get(line=b"GET /a HTTP/1.2"), 0, 505),
    Entry("http 2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, 505),
    Entry("http 3.1", _get(line=b"GET /a HTTP/3.1"), 0, 505),
    Entry("version in small letters", _get(line=b"GET /a http/1.1"), 0, 400),
    Entry("version with zeros", _get(line=b"GET /a HTTP/01.1"), 0, 400),
    Entry("icy", _get(line=b"GET /a ICE/1.0"), 0, 400),
    Entry("two blanks", _get(line=b"GET  /a HTTP/1.1"), 0, 400),
    Entry("tab", _get(line=b"GET\t/a HTTP/1.1"), 0, 400),
    Entry("blank at the end", _get(line=b"GET /a HTTP/1.1 "), 0, 400),
    Entry("blank at the start", b" " + _get(), 0, 400),
    Entry("empty line first", b"\r\n" + _get(), 0, 400),
    Entry("unknown method", _get(line=b"BREW /a HTTP/1.1"), 0, 501),
    Entry("method in small letters", _get(line=b"get /a HTTP/1.1"), 0, 501),
    Entry("connect", b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 0, 501),
    Entry("trace", _get(line=b"TRACE /a HTTP/1.1"), 0, 501),
    Entry("fragment", _get(line=b"GET /a#b HTTP/1.1"), 0, 400),
    Entry("relative target", _get(line=b"GET a HTTP/1.1"), 0, 400),
    Entry("star with get", _get(line=b"GET * HTTP/1.1"), 0, 400),
    Entry("quote in the target", _get(line=b'GET /"a HTTP/1.1'), 0, 400),
    Entry("backslash in the target", _get(line=b"GET /\\a HTTP/1.1"), 0, 400),
    Entry("raw utf-8 in the target", _get(line=b"GET /\xc3\xa9 HTTP/1.1"), 0, 400),
    Entry("nul in the target", _get(line=b"GET /a\0b HTTP/1.1"), 0, 400),
    Entry("user info", b"GET http://me@localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", 0, 400),
    Entry("ftp", b"GET ftp://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", 0, 400),
    Entry("absolute form of another host", b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 0, 400),
    # line ends
    Entry("bare lf after the request line", b"GET /a HTTP/1.1\n" + HOST + b"\r\n", 0, 400),
    Entry("bare lf everywhere", b"GET /a HTTP/1.1\nHost: localhost\n\n", 0, 400),
    Entry("bare lf ends a header", b"GET /a HTTP/1.1\r\nHost: localhost\n\r\n", 0, 400),
    Entry("lf cr", b"GET /a HTTP/1.1\n\rHost: localhost\n\r\n\r", 0, 400),
    Entry("bare cr in a value", _get(b"X-A: a\rb\r\n"), 0, 400),
    Entry("bare cr ends a header", b"GET /a HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n", 0, 400),
    Entry("two cr", _get(b"X-A: a\r\r\n"), 0, 400),
    Entry("nul in a value", _get(b"X-A: a\0b\r\n"), 0, 400),
    Entry("vertical tab in a value", _get(b"X-A: a\x0bb\r\n"), 0, 400),
    Entry("escape in a value", _get(b"X-A: \x1b[31m\r\n"), 0, 400),
    Entry("delete in a value", _get(b"X-A: a\x7f\r\n"), 0, 400),
    # header lines
    Entry("blank before the colon", b"GET /a HTTP/1.1\r\nHost : localhost\r\n\r\n", 0, 400),
    Entry("tab before the colon", _get(b"X-A\t: 1\r\n"), 0, 400),
    Entry("no colon", _get(b"X-A\r\n"), 0, 400),
    Entry("empty name", _get(b": 1\r\n"), 0, 400),
    Entry("folded", _get(b"X-A: 1\r\n 2\r\n"), 0, 400),
    Entry("folded with a tab", _get(b"X-A: 1\r\n\t2\r\n"), 0, 400),
    Entry("blank before the first header", b"GET /a HTTP/1.1\r\n Host: localhost\r\n\r\n", 0, 400),
    Entry("name with a blank", _get(b"X A: 1\r\n"), 0, 400),
    Entry("name with a slash", _get(b"X/A: 1\r\n"), 0, 400),
    Entry("name with a high byte", _get(b"X\xe9: 1\r\n"), 0, 400),
    # host
    Entry("no host", b"GET /a HTTP/1.1\r\n\r\n", 0, 400),
    Entry("two hosts", _get(b"Host: localhost\r\n"), 0, 400),
    Entry("two different hosts", _get(b"Host: evil.example\r\n"), 0, 400),
    Entry("empty host", b"GET /a HTTP/1.1\r\nHost:\r\n\r\n", 0, 400),
    Entry("host list", b"GET /a HTTP/1.1\r\nHost: a, b\r\n\r\n", 0, 400),
    Entry("host with a path", b"GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n", 0, 400),
    Entry("host with user info", b"GET /a HTTP/1.1\r\nHost: me@a\r\n\r\n", 0, 400),
    Entry("host with a bad port", b"GET /a HTTP/1.1\r\nHost: a:80x\r\n\r\n", 0, 400),
    Entry("two hosts in http 1.0", b"GET /a HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 0, 400),
    # length
    Entry("signed length", _post(b"Content-Length: +5\r\n", b"hello"), 0, 400),
    Entry("negative length", _post(b"Content-Length: -5\r\n", b"hello"), 0, 400),
    Entry("hex length", _post(b"Content-Length: 0x5\r\n", b"hello"), 0, 400),
    Entry("underscore in a length", _post(b"Content-Length: 1_0\r\n", b"0123456789"), 0, 400),
    Entry("length with a blank", _post(b"Content-Length: 1 0\r\n", b"0123456789"), 0, 400),
    Entry("empty length", _post(b"Content-Length:\r\n", b""), 0, 400),
    Entry("length list", _post(b"Content-Length: 5, 5\r\n", b"hello"), 0, 400),
    Entry("length list of two", _post(b"Content-Length: 5, 0\r\n", b"hello"), 0, 400),
    Entry("two equal lengths", _post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"), 0, 400),
    Entry("two lengths", _post(b"Content-Length: 0\r\nContent-Length: 44\r\n", b"x"), 0, 400),
    Entry("length of 20 digits", _post(b"Content-Length: 18446744073709551616\r\n", b""), 0, 400),
    Entry("unicode digits", _post(b"Content-Length: \xd9\xa5\r\n", b"hello"), 0, 400),
    Entry("length over the limit", _post(b"Content-Length: 999999999\r\n", b""), 0, 413),
    # transfer encoding
    Entry("cl.te", _post(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\nG"), 0, 400),
    Entry("te.cl", _post(b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"8\r\nSMUGGLED\r\n0\r\n\r\n"), 0, 400),
    Entry("two te", _post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 0, 400),
    Entry("te and te identity", _post(b"Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n", b"0\r\n\r\n"), 0, 501),
    Entry("gzip, chunked", _post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 0, 501),
    Entry("chunked, gzip", _post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"), 0, 501),
    Entry("chunked twice", _post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), 0, 501),
    Entry("chunked, identity", _post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"), 0, 501),
    Entry("identity", _post(b"Transfer-Encoding: identity\r\n", b""), 0, 501),
    Entry("xchunked", _post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 0, 501),
    Entry("quoted chunked", _post(b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n"), 0, 501),
    Entry("chunked with a parameter", _post(b"Transfer-Encoding: chunked;q=1\r\n", b"0\r\n\r\n"), 0, 501),
    Entry("empty te", _post(b"Transfer-Encoding:\r\n", b"0\r\n\r\n"), 0, 501),
    Entry("te with a vertical tab", _post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"), 0, 400),
    Entry("te name with a blank", _post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"), 0, 400),
    Entry("te behind a fold", _post(b"X: x\r\n Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 0, 400),
    Entry("te after a bare lf", _post(b"X: x\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 0, 400),
    Entry("te in http 1.0", b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400),
    # chunks
    Entry("chunk size not hex", _chunked(b"g\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("empty chunk size", _chunked(b"\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("signed chunk size", _chunked(b"+5\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("negative chunk size", _chunked(b"-5\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("0x chunk size", _chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("underscore in a chunk size", _chunked(b"0_5\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("blank before a chunk size", _chunked(b" 5\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("blank after a chunk size", _chunked(b"5 \r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("chunk size over 64 bits", _chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("chunk size over the limit", _chunked(b"ffffffff\r\n"), 0, 413),
    Entry("bare lf after a chunk size", _chunked(b"5\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("bare cr after a chunk size", _chunked(b"5\rhello\r\n0\r\n\r\n"), 0, 400),
    Entry("bare lf after a chunk", _chunked(b"5\r\nhello\n0\r\n\r\n"), 0, 400),
    Entry("chunk longer than its size", _chunked(b"4\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("chunk shorter than its size", _chunked(b"6\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("lf in an extension", _chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("cr in an extension", _chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("bare lf in a quoted extension", _chunked(b'5;a="\n"\r\nhello\r\n0\r\n\r\n'), 0, 400),
    Entry("extension too long", _chunked(b"5;a=" + b"b" * 300 + b"\r\nhello\r\n0\r\n\r\n"), 0, 400),
    Entry("trailer without a colon", _chunked(b"0\r\nX\r\n\r\n"), 0, 400),
    Entry("trailer with a bare lf", _chunked(b"0\r\nX: 1\n\r\n"), 0, 400),
    Entry("folded trailer", _chunked(b"0\r\nX: 1\r\n 2\r\n\r\n"), 0, 400),
    Entry("length in a trailer", _chunked(b"0\r\nContent-Length: 5\r\n\r\n"), 0, 400),
    Entry("coding in a trailer", _chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), 0, 400),
    Entry("host in a trailer", _chunked(b"0\r\nHost: evil\r\n\r\n"), 0, 400),
    Entry("last chunk with a bare lf", _chunked(b"0\n\n"), 0, 400),
    Entry("framing outweighs the data", _chunked(b"1\r\nx\r\n" * 5000), 0, 413),
    # others
    Entry("upgrade", _get(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"), 0, 501),
    Entry("upgrade without connection", _get(b"Upgrade: h2c\r\n"), 0, 501),
    Entry("other expectation", _post(b"Content-Length: 2\r\nExpect: 200-ok\r\n", b"hi"), 0, 417),
    Entry("two authorizations", _get(b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"), 0, 400),
    Entry("two content types", _get(b"Content-Type: a/b\r\nContent-Type: c/d\r\n"), 0, 400),
    Entry("tls hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 0, 400),
    Entry("good, then bad", _get() + b"GET /b HTTP/1.1\r\n\r\n", 1, 400),
    Entry("body, then rest of it", _post(b"Content-Length: 2\r\n", b"hixx") + _get(), 1, 501),
    Entry("close, then more", _get(b"Connection: close\r\n") + _get(line=b"GET /smuggled HTTP/1.1"), 1, None),
    Entry("1.0, then more", b"GET /a HTTP/1.0\r\n\r\n" + _get(line=b"GET /smuggled HTTP/1.1"), 1, None),
]  # fmt: skip

UNFINISHED: list[Entry] = [
    Entry("half a request line", b"GET /a HT", 0),
    Entry("half a head", b"GET /a HTTP/1.1\r\nHost: loc", 0),
    Entry("head without its blank line", b"GET /a HTTP/1.1\r\nHost: localhost\r\n", 0),
    Entry("half a body", _post(b"Content-Length: 5\r\n", b"hel"), 0),
    Entry("half a chunk", _chunked(b"5\r\nhel"), 0),
    Entry("chunks without end", _chunked(b"5\r\nhello\r\n"), 0),
    Entry("last chunk without its blank line", _chunked(b"5\r\nhello\r\n0\r\n"), 0),
    Entry("one, and half of the next", _get() + b"GET ", 1),
]
