"""How an alert leaves the house: a signed webhook, or an e-mail. One attempt each; `budgets.py` tries again.

Webhooks follow Standard Webhooks (standardwebhooks.com), so that receivers verify them with its libraries.
The address is a tenant's, hence a stranger's: it is looked up once, every address it has must be public,
and the connection goes to the very address that was checked. Redirects are not followed.
Neighbours: `sextant.transport.addresses` (what is public).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import smtplib
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Literal

import msgspec

from sextant.transport.addresses import is_not_public

TIMEOUT_S = 10.0
"""Longest silence of a receiver."""
DEADLINE_S = 20.0
"""A whole webhook call: a receiver that answers a byte at a time must not hold up the alerts of others."""
_GONE = 410


class Undelivered(Exception):
    """An alert did not arrive. `for_good`: the receiver does not want it, another attempt is no use."""

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.for_good = for_good


class SmtpServer(msgspec.Struct, frozen=True):
    """Where e-mails are handed in. `starttls` and `tls` check the server's certificate; `none` is for a
    server on this very machine."""

    host: str
    sender: str
    port: int = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = ""
    ca_file: str = ""
    """Certificates to trust instead of the system's."""


class Channels(msgspec.Struct, frozen=True):
    """What alerts may use. `private_webhooks` lets webhooks go to addresses that are not public, and without
    TLS: for receivers inside the same network."""

    smtp: SmtpServer | None = None
    private_webhooks: bool = False


class Webhook(msgspec.Struct, frozen=True):
    """One message for one receiver. `id` stays the same when it is sent again."""

    url: str
    secret: str
    id: str
    body: bytes


def send_webhook(webhook: Webhook, channels: Channels, *, now_s: int) -> None:
    """One attempt; returns when the receiver has answered with 2xx. Raises Undelivered."""
    url = urllib.parse.urlsplit(webhook.url)
    host = url.hostname or ""
    if url.scheme != "https" and not channels.private_webhooks:
        raise Undelivered(f"webhook {host}: only https is spoken to receivers outside", for_good=True)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Sextant-Alerts",
        "webhook-id": webhook.id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": signature(webhook, now_s),
    }
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        connection = _Pinned(host, port, _checked_address(host, port, channels), tls=url.scheme == "https")
        with contextlib.closing(connection), connection.cut_off_after(DEADLINE_S):
            connection.request("POST", target, body=webhook.body, headers=headers)
            with contextlib.closing(connection.getresponse()) as answer:
                status = answer.status
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Undelivered(f"webhook {host}: {type(error).__name__}: {error}") from error
    if not 200 <= status < 300:
        raise Undelivered(f"webhook {host} answered {status}; expected 2xx", for_good=status == _GONE)


def signature(webhook: Webhook, now_s: int) -> str:
    """`v1,` and the base64 of HMAC-SHA256 over id, time and body, joined by dots."""
    key = base64.b64decode(webhook.secret.removeprefix("whsec_"))
    signed = b".".join((webhook.id.encode(), str(now_s).encode(), webhook.body))
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def send_email(message: EmailMessage, channels: Channels) -> None:
    """Hands a message to the mail server. Raises Undelivered; `for_good` when every recipient was refused."""
    server = channels.smtp
    if server is None:
        raise Undelivered("no mail server is configured: set spec.alerts.smtp", for_good=True)
    try:
        context = ssl.create_default_context(cafile=server.ca_file or None)
        with _smtp(server, context) as smtp:
            if server.security == "starttls":
                smtp.starttls(context=context)
            if server.user:
                smtp.login(server.user, server.password)
            refused = smtp.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        permanent = all(code >= 500 for code, _ in error.recipients.values())
        raise Undelivered(f"mail server {server.host} refused every recipient", for_good=permanent) from error
    except smtplib.SMTPNotSupportedError as error:  # its text is smtplib's own: no STARTTLS, no AUTH
        said = f"mail server {server.host}: {error} spec.alerts.smtp.security is `{server.security}`"
        raise Undelivered(said) from error
    except (OSError, smtplib.SMTPException, ValueError) as error:
        # The text of a failed login may repeat what was sent: the type says enough.
        raise Undelivered(f"mail server {server.host}: {type(error).__name__}") from error
    if refused:
        raise Undelivered(f"mail server {server.host} refused {', '.join(sorted(refused))}", for_good=True)


def _smtp(server: SmtpServer, context: ssl.SSLContext) -> smtplib.SMTP:
    if server.security == "tls":
        return smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_S, context=context)
    return smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S)


def _checked_address(host: str, port: int, channels: Channels) -> str:
    """The first address of `host`. Raises Undelivered when one of its addresses is not public."""
    found = [entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    inside = [str(address) for address in found if is_not_public(str(address))]
    if inside and not channels.private_webhooks:
        raise Undelivered(f"webhook {host} leads to {inside[0]}, which is no public address", for_good=True)
    return str(found[0])


class _Pinned(http.client.HTTPConnection):
    """A connection to one address, whatever the name would lead to when asked again."""

    def __init__(self, host: str, port: int, address: str, *, tls: bool) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S)
        self._address = address
        self._tls = tls

    def connect(self) -> None:
        sock = socket.create_connection((self._address, self.port), TIMEOUT_S)
        if self._tls:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
        self.sock = sock

    @contextlib.contextmanager
    def cut_off_after(self, deadline_s: float) -> Iterator[None]:
        """Ends the connection when its time is over, whatever it waits for. Raises TimeoutError then: an
        answer that was cut off can look like a short whole one."""
        over = threading.Event()
        timer = threading.Timer(deadline_s, self._cut_off, (over,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if over.is_set():
            raise TimeoutError(f"no whole answer within {deadline_s:g} s")

    def _cut_off(self, over: threading.Event) -> None:
        over.set()
        with contextlib.suppress(OSError, AttributeError):
            # The plain socket's way, under TLS too: nothing is said to the peer, reading ends.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
