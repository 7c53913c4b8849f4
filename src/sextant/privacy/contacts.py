"""E-mail addresses, IP addresses, dates of birth.

Neighbours: `detector.py` calls these when their gate has matched.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from sextant.privacy import checksums, context
from sextant.privacy.spans import Span

EMAIL_GATE = r"@[A-Za-z0-9]"
IPV4_GATE = r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"
IPV6_GATE = (
    r"[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}::?[0-9A-Fa-f]{1,4}|[0-9A-Fa-f]{1,4}::[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]"
    r"|::[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:"
)
BIRTH_GATE = (
    r"(?i)(?:出生[日期年月时间于在]{0,3}|生[日于人,，。;；)）]"
    r"|birth ?da(?:te|y)|of birth|\bborn(?: on)?|\bdob|d\.o\.b\.?)"
    r"[^0-9A-Za-z\n]{0,6}(?:(?:is|was|on|at)[^0-9A-Za-z\n]{0,3})?[0-9ADFJMNOS]"
    r"|[0-9日号] ?(?:出?生|birth|born|dob|d\.o\.b|date of birth)"
)
"""A word for birth, and where a date may begin or end beside it."""

_LOCAL_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
LOCAL_CHARS = 64
"""RFC 5321, 4.5.3.1.1."""
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24}(?![A-Za-z0-9\-])"
)
_NO_TLD = frozenset(
    (
        *("png", "jpg", "jpeg", "svg", "gif", "webp", "css", "js", "ts", "py", "json", "html", "md", "txt"),
        *("zip", "tgz", "tar", "gz", "local"),
    )
)
_IPV4 = re.compile(
    r"[0-9](?<![A-Za-z0-9_.\-].)[0-9]{0,2}\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}(?![A-Za-z0-9_]|[.\-][A-Za-z0-9])"
)
_IPV6 = re.compile(
    r"[0-9A-Fa-f:](?<![A-Za-z0-9_:.].)[0-9A-Fa-f]{0,3}:[0-9A-Fa-f:]*(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3})?(?![A-Za-z0-9_])"
)
_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?"
    "|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DATE = (
    r"(?:(?:19|20)[0-9]{2} ?年 ?[01]?[0-9] ?月 ?[0-3]?[0-9](?: ?[日号])?"
    r"|(?:19|20)[0-9]{2}[-/.][01]?[0-9][-/.][0-3]?[0-9]|(?:19|20)[0-9]{6}"
    r"|[0-3]?[0-9][-/.][0-3]?[0-9][-/.](?:19|20)[0-9]{2}"
    rf"|{_MONTH}\.? [0-3]?[0-9](?:st|nd|rd|th)?,? (?:19|20)[0-9]{{2}}"
    rf"|[0-3]?[0-9](?:st|nd|rd|th)?(?: of)? {_MONTH}\.?,? (?:19|20)[0-9]{{2}})"
)
_BORN = re.compile(
    r"[出生BDbd](?:(?<=出)生(?:日期|年月日?|时间|于|在)?|(?<=生)[日于人,，。;；)）]"
    r"|(?<=[Dd])(?i:ate of birth|\.o\.b\.?)|(?<=[Bb])(?i:irth ?date|irthday)"
    r"|(?<![A-Za-z0-9_].)(?:(?<=[Bb])(?i:orn(?: on)?)|(?<=[Dd])(?i:ob)(?![A-Za-z0-9_])))"
)
"""The first character stands before what follows it, so that `re` can skip to it."""
_AFTER_BORN = re.compile(
    rf"(?i)[^0-9A-Za-z\n]{{0,6}}(?:(?:is|was|on|at)\b[^0-9A-Za-z\n]{{0,3}})?(?P<date>{_DATE})(?![0-9A-Za-z])"
)
_BEFORE_BORN = re.compile(rf"(?i)(?<![0-9A-Za-z])(?P<date>{_DATE}) ?\Z")
DATE_CHARS = 24
"""No date of these forms is longer."""


def find_emails(text: str) -> Iterator[Span]:
    """Spans of EMAIL; not `git@host:path`, the password of a URL, or a file name."""
    at = text.find("@")
    while at >= 0:
        head = text[max(0, at - LOCAL_CHARS) : at]
        begin = at - len(head) + len(head.rstrip(_LOCAL_CHARS))
        domain = _DOMAIN.match(text, at + 1)
        if (
            domain is not None
            and begin < at
            and _is_mailbox(text[begin:at], domain[0], text[domain.end() :][:1])
        ):
            yield Span(begin, domain.end(), "EMAIL", 0.94)
        at = text.find("@", at + 1)


def _is_mailbox(local: str, domain: str, after: str) -> bool:
    if not (local[0].isalnum() and local[-1] != ".") or ".." in local:
        return False
    if local in ("git", "hg", "ssh") and after == ":":
        return False
    return domain.rpartition(".")[2].lower() not in _NO_TLD


def find_addresses(text: str) -> Iterator[Span]:
    """Spans of IP, version 4: not version numbers, masks, or addresses that every machine has."""
    for match in _IPV4.finditer(text):
        octets = match[0].split(".")
        if octets[0] in ("0", "127", "255") or not all(map(_is_octet, octets)):
            continue
        said = context.said_before(text, match.start())
        if len(match[0]) == 7 and "host" not in said:
            continue  # four single digits: a chapter or a version
        if "version" not in said and ("other" not in said or "host" in said):
            yield Span(match.start(), match.end(), "IP", 0.85)


def _is_octet(written: str) -> bool:
    return written == "0" or (written[0] != "0" and int(written) <= 255)


def find_addresses_v6(text: str) -> Iterator[Span]:
    """Spans of IP, version 6: at least three groups, one with a digit: `a::b` of a program is none."""
    for match in _IPV6.finditer(text):
        written = match[0]
        end = match.end()
        if written.endswith(":") and not written.endswith("::"):
            written, end = written[:-1], end - 1
        groups = [group for group in written.split(":") if group]
        if len(groups) < 3 or not any(character.isdecimal() for character in written):
            continue
        try:
            address = ipaddress.IPv6Address(written)
        except ValueError:
            continue
        if not (address.is_loopback or address.is_unspecified):
            yield Span(match.start(), end, "IP", 0.9)


def find_births(text: str) -> Iterator[Span]:
    """Spans of BIRTH_DATE: dates that the text itself calls somebody's birth."""
    for born in _BORN.finditer(text):
        match = _AFTER_BORN.match(text, born.end())
        if match is None:
            match = _BEFORE_BORN.search(text[: born.start()], max(0, born.start() - DATE_CHARS))
        if match is not None and _is_day(match["date"]):
            yield Span(match.start("date"), match.end("date"), "BIRTH_DATE", 0.85)


def _is_day(written: str) -> bool:
    """Whether a date that begins with its year is one; of the others the order is not known."""
    numbers = re.findall("[0-9]+", written)
    if len(numbers) != 3 or len(numbers[0]) != 4:
        return True
    year, month, day = numbers
    return checksums.is_date(f"{year}{month:0>2}{day:0>2}")
