"""Each fast way of looking beside the plain one that it stands for."""

from __future__ import annotations

import random
import re

import pytest
import re2
from benchmarks.pii.generate import documents
from hypothesis import given
from hypothesis import strategies as st

from sextant.privacy import contacts, detector, numbers, secrets
from sextant.privacy.normal import normalise
from sextant.privacy.spans import Span, without_overlaps

PLAIN_RUN = re.compile(
    r"(?:(?<![A-Za-z0-9_])|(?<=(?i:id|no))|(?<=(?i:tel))|(?<=(?i:card))|(?<=(?i:phone)))"
    r"[0-9](?:[ ()（）\-]{0,2}[0-9]){9,}[Xx]?(?![A-Za-z0-9_])"
)
PLAIN_WORD = re2.compile(
    r"(?i)passw(?:or)?d|pwd|passphrase|secret(?:[_ ]?(?:access)?[_ ]?key)?|token|api[_ -]?key"
    r"|access[_ -]?key(?:[_ -]?id)?|credential|密码|口令|密钥|令牌|秘钥|\bbearer|\bbasic"
)
PLAIN_BORN = re2.compile(
    r"(?i)出生(?:日期|年月日?|时间|于|在)?|生日|生于"
    r"|date of birth|birth ?date|birthday|\bborn(?: on)?|\bdob\b|d\.o\.b\.?"
    r"|生人|生[于,，。;；)）]"
)
DIGITS = st.text("0123456789", min_size=1, max_size=19)
JOINTS = st.sampled_from(
    ["", " ", "-", "  ", " -", "(", ") ", "（", "   ", ".", "_", "a", "X", "x", "id", "Tel", "号"]
)
WORDS = (
    *("passwd", "password", "pwd", "Passphrase", "SECRET_access_key", "secret", "key", "token", "api-key"),
    *("apiKey", "access_key_id", "credential", "密码", "密钥", "口令", "令牌", "秘钥", "bearer", "Basic"),
    *("出生日期", "出生", "生日", "生于", "生人", "生，", "birthday", "birth", "date", "born", "on", "DOB"),
    *("d.o.b.", "date of birth", "abearer", ":", "=", "is", "是", "1990", "'", "_", "a", "9", ",", "\n"),
)


def runs(text: str) -> list[str]:
    """What `numbers.find` takes for a run, as it does."""
    return [m[0] for m in numbers._RUN.finditer(text) if sum(c.isdecimal() for c in m[0]) >= 10]


@given(st.lists(st.one_of(DIGITS, JOINTS), max_size=12))
def test_runs_of_digits_are_those_of_the_plain_expression(pieces):
    text = "".join(pieces)
    assert runs(text) == PLAIN_RUN.findall(text)


@given(st.lists(st.sampled_from([*WORDS, " "]), max_size=12))
def test_words_are_those_of_the_plain_expressions(pieces):
    text = "".join(pieces)
    for fast, plain in ((secrets._WORD, PLAIN_WORD), (contacts._BORN, PLAIN_BORN)):
        assert [m.span() for m in fast.finditer(text)] == [m.span() for m in plain.finditer(text)]


def changed(rng: random.Random, text: str) -> str:
    """`text` with a few characters lost, doubled, or others put in."""
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        put = rng.choice(
            ["", "", " ", "-", "_", "a", "0", "X", "=", ":", "：", "(", ".", "\n", "\x85", "\u2028"]
        )
        text = text[:at] + put + text[at + rng.randrange(2) :]
    return text


@pytest.mark.parametrize(
    "place", [n for n, (kinds, _, _) in enumerate(detector._FINDERS) if not kinds & {"PASSPORT", "NAME"}]
)
def test_no_gate_keeps_out_what_its_finder_would_find(place):
    """Not so for passports of other countries, which are asked for by a word, and for names."""
    _, gate, find = detector._FINDERS[place]
    opened = re2.compile(gate)
    rng = random.Random(place)
    found = 0
    for document in documents(place + 1, 700):
        text = normalise(changed(rng, f"{document.text} mysql://root:hU7x{place}!@db")).text
        spans = list(find(text))
        found += len(spans)
        assert not spans or opened.search(text), text
    assert found


def plain_without_overlaps(spans: list[Span]) -> list[Span]:
    """By the rule itself: from the surest to the least, each that no surer one overlaps."""
    taken: list[Span] = []
    for span in sorted(spans, key=lambda s: (-s.confidence, s.start - s.end, s.start)):
        if all(span.end <= other.start or span.start >= other.end for other in taken):
            taken.append(span)
    return sorted(taken, key=lambda s: s.start)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.sampled_from([0.5, 0.9, 0.95])), max_size=8)
)
def test_overlaps_are_settled_by_the_rule(places):
    spans = [Span(start, start + length, str(n), sure) for n, (start, length, sure) in enumerate(places)]
    assert without_overlaps(spans) == plain_without_overlaps(spans)
