"""Credentials: keys by their vendors' prefixes, private keys, JSON web tokens, passwords in URLs, and
whatever stands behind a word like `password` and is no placeholder.

Also what log lines are cleaned with (`telemetry.logs`). Prefixes are the vendors' published ones (2026-11).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import re2

from sextant.privacy.spans import Span

PREFIX_GATE = (
    r"\b(?:sk|rk|pk|ak|hf|gh[opsur]|xox[abeprs]|glpat|npm|pypi|dop_v1|shpat|r8|gsk|xai|pplx|tvly|AKIA|ASIA|AGPA"
    r"|AIza|LTAI|AKID|ya29|SG|github_pat|eyJ)[-_.A-Za-z0-9]{8}|PRIVATE KEY"
)
URL_GATE = r"://[^/\s:@]*:[^/\s@]+@"
_SPACE = r"[\s\v\x1c-\x1f\x{85}\x{1680}\x{2028}\x{2029}]"
"""What Python calls a space, in RE2's words, after `normal.py`."""
WORD_GATE = (
    r"(?i)(?:passw(?:or)?d|pwd|passphrase|secret|key|key[_ -]?id|token|credential|密码|口令|密钥|令牌|秘钥)"
    rf"""["'”]?{_SPACE}{{0,3}}(?:=>|:=|[=:：是为]|is)|\b(?:bearer|basic){_SPACE}{{1,3}}[A-Za-z0-9._~+/=\-]{{16}}"""
)
"""Such a word, and what links a value to it."""

_PREFIXED = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:sk|rk|pk)[-_](?:proj-|ant-|live_|test_|or-|svcacct-|admin-)?[A-Za-z0-9_-]{16,}"
    r"|sxt-[A-Za-z0-9_-]{16,}|ak-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{16,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abeprs]-[A-Za-z0-9-]{10,}|npm_[A-Za-z0-9]{20,}"
    r"|pypi-[A-Za-z0-9_-]{20,}|dop_v1_[a-f0-9]{32,}|shpat_[a-fA-F0-9]{16,}|(?:r8|gsk)_[A-Za-z0-9]{16,}"
    r"|(?:xai|pplx|tvly)-[A-Za-z0-9-]{16,}|(?:AKIA|ASIA|AGPA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{35}"
    r"|LTAI[A-Za-z0-9]{12,26}|AKID[A-Za-z0-9]{13,40}|ya29\.[A-Za-z0-9_-]{20,}"
    r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*"
    r")(?![A-Za-z0-9])"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?"
    r"(?:-----END[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_URL = re.compile(r"://([^/\s:@\"']*:[^/\s@\"']+)(?=@)")
_WORD = re.compile(
    r"[ABCPSTabcpst\u017f密口令秘](?:(?<=[Pp])(?i:assw(?:or)?d|wd|assphrase)|(?<=[Tt])(?i:oken)"
    r"|(?<=[Ss\u017f])(?i:ecret(?:[_ ]?(?:access)?[_ ]?key)?)"
    r"|(?<=[Aa])(?i:pi[_ -]?key|ccess[_ -]?key(?:[_ -]?id)?)|(?<=[Cc])(?i:redential)"
    r"|(?<=密)[码钥]|(?<=口)令|(?<=令)牌|(?<=秘)钥|(?<=[Bb])(?<![A-Za-z0-9_].)(?i:earer|asic))"
)
"""The first character stands before what follows it, so that `re` can skip to it."""
_NAMED = re.compile(
    r"""["'”]?\s{0,3}(?:=>|:=|[=:：]|是|为|is\b)\s{0,3}"""
    r"""(?:"([^"\n]{6,256})"|'([^'\n]{6,256})'|["'“‘`]?([^\s"'`,;<>(){}\[\]\u0080-\U0010ffff]{6,256}))"""
)
_SCHEME = re.compile(r"\s{1,3}([A-Za-z0-9._~+/=\-]{16,})")
_PREFIX = re2.compile(PREFIX_GATE)
_PLACEHOLDER = re.compile(
    r"(?i)^(?:\$|%|\*|<|\{|your|my[_-]|xxx|example|placeholder|changeme|none|null|true|false|undefined|os\.|env|process\."
    r"|self\.|config|settings|str\b|string|int\b|optional|get_?|required|redacted|self|todo|https?:|/|\.)|(.)\1{5,}|\.\.\.|\*\*\*"
    r"|\w\(|\]$"
)
_CLASSES = tuple(re.compile(pattern) for pattern in ("[a-z]", "[A-Z]", "[0-9]", r"[^A-Za-z0-9]"))
LEAST_BITS = 2.5
"""Shannon entropy per character below which a value behind `token` is a word, not a secret."""


def find_keys(text: str) -> Iterator[Span]:
    """Spans of SECRET that say themselves what they are."""
    for prefix in _PREFIX.finditer(text):
        found = _PREFIXED.match(text, prefix.start())
        if found is not None:
            yield Span(found.start(), found.end(), "SECRET", 0.97)
    for match in _PRIVATE_KEY.finditer(text):
        yield Span(match.start(), match.end(), "SECRET", 0.97)


def find_in_urls(text: str) -> Iterator[Span]:
    """Spans of SECRET: user and password in a URL."""
    for match in _URL.finditer(text):
        if not _PLACEHOLDER.search(match[1].partition(":")[2]):
            yield Span(match.start(1), match.end(1), "SECRET", 0.95)


def find_named(text: str) -> Iterator[Span]:
    """Spans of SECRET behind a word like `password`."""
    for word in _WORD.finditer(text):
        follows = _SCHEME if word[0].lower() in ("bearer", "basic") else _NAMED
        named = follows.match(text, word.end())
        if named is not None:
            group = named.lastindex or 0
            if _is_secret(named[group]):
                yield Span(named.start(group), named.end(group), "SECRET", 0.9)


def _is_secret(value: str) -> bool:
    """Whether a value is random enough, and no placeholder, expression or plain number."""
    if not value.isascii() or value.isdecimal():
        return False
    if sum(pattern.search(value) is not None for pattern in _CLASSES) < 2:
        return False
    if _bits(value) < LEAST_BITS - 0.5 * (len(value) < 10):
        return False
    return _PLACEHOLDER.search(value) is None


def _bits(value: str) -> float:
    """Shannon entropy per character."""
    length = len(value)
    return math.log2(length) - sum(n * math.log2(n) for n in map(value.count, set(value)) if n > 1) / length
