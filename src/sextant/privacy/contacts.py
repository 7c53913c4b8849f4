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
IPV6_GATE = r"[0-9A-Fa-f]{1,4}::?[0-9A-Fa-f]{0,4}:|::[0-9A-Fa-f]"
BIRTH_GATE = r"(?i)生|birth|\bborn|\bdob\b|d\.o\.b"

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24}(?![A-Za-z0-9\-])"
)
_NO_TLD = frozenset(
    (
        *("png", "jpg", "jpeg", "svg", "gif", "webp", "css", "js", "ts", "py", "json", "html", "md", "txt"),
        *("zip", "tgz", "tar", "gz", "local"),
    )
)
_IPV4 = re.compile(r"(?<![A-Za-z0-9_.\-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![A-Za-z0-9_]|[.\-][A-Za-z0-9])")
_IPV6 = re.compile(
    r"(?<![A-Za-z0-9_:.])[0-9A-Fa-f:]{2,}:[0-9A-Fa-f:]*(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3})?(?![A-Za-z0-9_])"
)
_VERSION = re.compile(
    r"(?i)(?:\bv|ver(?:sion)?|版本|release|[=<>~^]=?|build|firmware|固件|chrome|safari|firefox|edge|补丁|section|章节?|第)"
    r"[\s:：号为是./]*$"
)
_HOST = re.compile(
    r"(?i)(?:\bip(?:v4)?|addr(?:ess)?|host|server|dns|ping|ssh|from|client|@|//|地址|主机|服务器|来源)[\s:：=为是]*$"
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
    r"(?i)(?:(?:出生(?:日期|年月日?|时间|于|在)?|生日|生于"
    r"|date of birth|birth ?date|birthday|\bborn(?: on)?|\bdob\b|d\.o\.b\.?)"
    r"[^0-9A-Za-z\n]{0,6}(?:(?:is|was|on|at)\b[^0-9A-Za-z\n]{0,3})?"
    rf"(?P<after>{_DATE})(?![0-9A-Za-z]))"
    rf"|(?<![0-9A-Za-z])(?P<before>{_DATE})(?= ?(?:出生|生人|生[于,，。;；)）]))"
)


def find_emails(text: str) -> Iterator[Span]:
    """Spans of EMAIL; not `git@host:path`, the password of a URL, or a file name."""
    for match in _EMAIL.finditer(text):
        local, _, domain = match[0].partition("@")
        after = text[match.end() : match.end() + 1]
        if (local in ("git", "hg", "ssh") and after == ":") or ".." in local or local.endswith("."):
            continue
        if domain.rpartition(".")[2].lower() not in _NO_TLD:
            yield Span(match.start(), match.end(), "EMAIL", 0.94)


def find_addresses(text: str) -> Iterator[Span]:
    """Spans of IP, version 4: not version numbers, masks, or addresses that every machine has."""
    for match in _IPV4.finditer(text):
        try:
            address = ipaddress.IPv4Address(match[0])
        except ValueError:
            continue
        if address.is_loopback or address.is_unspecified or address.packed[0] in (0, 255):
            continue
        head = context.before(text, match.start())
        if len(match[0]) == 7 and _HOST.search(head) is None:
            continue  # four single digits: a chapter or a version
        if _VERSION.search(head) is None:
            yield Span(match.start(), match.end(), "IP", 0.85)


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
    for match in _BORN.finditer(text):
        name = "after" if match["after"] is not None else "before"
        digits = re.findall("[0-9]+", match[name])
        if len(digits) == 3 and len(digits[0]) == 4:
            year, month, day = digits
            if not checksums.is_date(f"{year}{month:0>2}{day:0>2}"):
                continue
        yield Span(match.start(name), match.end(name), "BIRTH_DATE", 0.85)
