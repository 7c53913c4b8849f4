"""Where alerts arrive in tests: a webhook receiver on loopback, and a mail server that speaks enough SMTP."""

from __future__ import annotations

import contextlib
import http.server
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Receiver:
    """Keeps what it was sent; answers the statuses in `answers`, then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.url = ""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A webhook receiver."""
    receiver = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = receiver.answers.pop(0) if receiver.answers else 200
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook?a=1"
    with _serving(server):
        yield receiver


class Mail:
    """Keeps what was handed in, and how; refuses the recipients in `unknown`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.messages: list[bytes] = []
        self.recipients: list[str] = []
        self.unknown: set[str] = set()
        self.was_tls = False
        self.logins: list[str] = []


def certificate(folder: Path) -> Path:
    """A self-signed certificate for localhost: `cert.pem` and `key.pem`."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@contextmanager
def mail_server(folder: Path, *, tls_first: bool = False) -> Iterator[Mail]:
    """A mail server with the certificate in `folder`, STARTTLS or TLS from the first byte."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                self.talk()
            finally:
                self.lines.close()
                self.request.close()

        def talk(self) -> None:
            self.lines = self.request.makefile("rb")
            if tls_first:
                self.wrap()
            self.say("220 test")
            while line := self.lines.readline():
                if not self.obey(line.decode().strip()):
                    return

        def wrap(self) -> None:
            self.lines.close()
            self.request = context.wrap_socket(self.request, server_side=True)
            self.lines = self.request.makefile("rb")
            mail.was_tls = True

        def say(self, text: str) -> None:
            self.request.sendall(text.encode() + b"\r\n")

        def obey(self, line: str) -> bool:
            verb = line[:4].upper()
            if verb == "EHLO":
                self.say("250-test\r\n250-AUTH PLAIN\r\n250 STARTTLS")
            elif verb == "STAR":
                self.say("220 go on")
                self.wrap()
            elif verb == "RCPT" and any(name in line for name in mail.unknown):
                self.say("550 nobody of that name")
            elif verb == "DATA":
                self.say("354 go on")
                self.read_message()
                self.say("250 taken")
            elif verb == "AUTH":
                mail.logins.append(line)
                self.say("235 welcome")
            else:
                if verb == "RCPT":
                    mail.recipients.append(line.partition("<")[2].partition(">")[0])
                self.say("221 bye" if verb == "QUIT" else "250 fine")
            return verb != "QUIT"

        def read_message(self) -> None:
            text = b""
            while (line := self.lines.readline()) != b".\r\n":
                text += line
            mail.messages.append(text)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

        def handle_error(self, *_: Any) -> None:
            """A client that breaks off is part of some tests."""

    server = Server(("127.0.0.1", 0), Handler)
    mail = Mail(server.server_address[1])
    with _serving(server):
        yield mail


@contextmanager
def dripping(folder: Path, *, tls: bool) -> Iterator[int]:
    """A receiver that sends header bytes one at a time, for ever; its port."""
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                if tls:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
                    self.request = stack.enter_context(context.wrap_socket(self.request, server_side=True))
                self.request.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not ended.wait(0.02):
                    self.request.sendall(b"x")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with _serving(server):
        try:
            yield server.server_address[1]
        finally:
            ended.set()


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
