"""Labelled texts in Chinese and English: sentences with personal data, with what only looks like it, and
plain ones. A text is made of pieces; a piece with a type is a label. The same seed gives the same set.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable

from benchmarks.pii import values
from benchmarks.pii.sentences import CODE, NEGATIVE, PERSONAL, PLAIN

CHECKSUMMED = ("CN_ID", "BANK_CARD", "USCC")
_PIECES = re.compile(r"(\{[A-Za-z_0-9]+\})")


@dataclasses.dataclass(frozen=True)
class Label:
    """`text[start:end]` is personal data. `kind` says how it is written."""

    start: int
    end: int
    type: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Document:
    text: str
    labels: tuple[Label, ...]


def documents(seed: int, count: int) -> list[Document]:
    """The set."""
    rng = random.Random(seed)
    return [_document(rng) for _ in range(count)]


def _document(rng: random.Random) -> Document:
    text, labels = "", []
    for _ in range(rng.randint(1, 5)):
        source = rng.choices((PERSONAL, NEGATIVE, PLAIN, CODE), (45, 35, 15, 5))[0]
        sentence = rng.choice(source)
        joint = rng.choice("\n ") if text and text[-1] not in "。，" else ""
        text += joint
        for piece in _pieces(sentence):
            if not _PIECES.fullmatch(piece):
                text += piece
                continue
            name = piece[1:-1]
            written, type_, kind = MAKERS[name](rng)
            if type_:
                labels.append(Label(len(text), len(text) + len(written), type_, kind))
            text += written
    return Document(text, tuple(labels))


def _pieces(sentence: str) -> list[str]:
    """`a {B} c` as `a `, `{B}`, ` c`."""
    return [piece for piece in _PIECES.split(sentence) if piece]


def _wide(text: str) -> str:
    """Full-width forms."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _disguised(rng: random.Random, text: str) -> tuple[str, str]:
    """Now and then in other characters than ASCII: full-width, with invisible ones, or with look-alikes."""
    drawn = rng.random()
    if drawn < 0.06:
        return _wide(text), "full-width"
    if drawn < 0.09:
        at = rng.randrange(1, len(text))
        return text[:at] + rng.choice("\u200b\u200d\ufeff\u2060") + text[at:], "invisible"
    if drawn < 0.12:
        table = str.maketrans("0123456789", "".join(chr(0x1D7CE + n) for n in range(10)))
        alike = str.maketrans("XACEHKMPT", "ХАСЕНКМРТ")
        return (text.translate(alike) if rng.random() < 0.4 else text.translate(table)), "look-alike"
    return text, "plain"


def _groups(text: str, sizes: tuple[int, ...], joint: str) -> str:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return joint.join(piece for piece in (*pieces, text[at:]) if piece)


Made = tuple[str, str, str]


def _resident(rng: random.Random) -> Made:
    number = values.resident_id(rng)
    drawn = rng.random()
    if drawn < 0.12:
        sizes = rng.choice(((6, 8), (6, 4, 4), (6, 6), (4, 4, 4, 4)))
        return _groups(number, sizes, rng.choice(" -")), "CN_ID", "separated"
    if drawn < 0.2:
        return number.lower(), "CN_ID", "plain"
    written, kind = _disguised(rng, number)
    return written, "CN_ID", kind


def _card(rng: random.Random) -> Made:
    number = values.bank_card(rng)
    if rng.random() < 0.35:
        return _groups(number, (4, 4, 4, 4), rng.choice(" -")), "BANK_CARD", "separated"
    written, kind = _disguised(rng, number)
    return written, "BANK_CARD", kind


def _mobile(rng: random.Random) -> Made:
    number = values.mobile(rng)
    drawn = rng.random()
    if drawn < 0.2:
        return _groups(number, (3, 4), rng.choice(" -")), "PHONE", "mobile, separated"
    if drawn < 0.35:
        return rng.choice(("+86", "+86 ", "+86-", "86")) + number, "PHONE", "mobile, with country"
    written, kind = _disguised(rng, number)
    return written, "PHONE", f"mobile, {kind}"


def _landline(rng: random.Random) -> Made:
    area, number = values.landline(rng)
    written = rng.choice(
        (
            f"{area}-{number}",
            f"({area}) {number}",
            f"{area} {number}",
            f"（{area}）{number}",
            f"{area}{number}",
        )
    )
    return written, "PHONE", "landline"


def _foreign(rng: random.Random) -> Made:
    area = f"{rng.randint(2, 9)}{values.digits(rng, 2)}"
    number = f"{rng.randint(2, 9)}{values.digits(rng, 2)}-{values.digits(rng, 4)}"
    return (
        rng.choice((f"+1 {area}-{number}", f"({area}) {number}", f"{area}-{number}")),
        "PHONE",
        "other country",
    )


def _birth(rng: random.Random) -> Made:
    day = values.day(rng)
    form = rng.choice(("%Y年%m月%d日", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d"))
    return day.strftime(form), "BIRTH_DATE", "zh"


def _birth_english(rng: random.Random) -> Made:
    form = rng.choice(("%B %d, %Y", "%d %B %Y", "%m/%d/%Y", "%Y-%m-%d", "%d %b %Y"))
    return values.day(rng).strftime(form), "BIRTH_DATE", "en"


def _plate(rng: random.Random) -> Made:
    text = values.plate(rng)
    if rng.random() < 0.25:
        return f"{text[:2]}{rng.choice('· -')}{text[2:]}", "PLATE", "separated"
    return text, "PLATE", "plain"


def _of(
    type_: str, make: Callable[[random.Random], str], *, disguise: bool = False
) -> Callable[[random.Random], Made]:
    def made(rng: random.Random) -> Made:
        text = make(rng)
        written, kind = _disguised(rng, text) if disguise else (text, "plain")
        return written, type_, kind

    return made


MAKERS: dict[str, Callable[[random.Random], Made]] = {
    "CN_ID": _resident,
    "BANK_CARD": _card,
    "USCC": _of("USCC", values.credit_code, disguise=True),
    "MOBILE": _mobile,
    "LANDLINE": _landline,
    "FOREIGN": _foreign,
    "PASSPORT": _of("PASSPORT", values.passport),
    "PLATE": _plate,
    "EMAIL": _of("EMAIL", values.email, disguise=True),
    "IP": _of("IP", values.ip),
    "BIRTH": _birth,
    "BIRTH_EN": _birth_english,
    "SECRET": _of("SECRET", values.secret),
    "PASSWORD": _of("SECRET", values.password),
    "NAME": _of("NAME", values.name),
    "NAME_EN": _of("NAME", values.english_name),
    "ADDRESS": _of("ADDRESS", values.address),
    "ADDRESS_EN": _of("ADDRESS", values.english_address),
    "wrong_id": _of("", values.wrong_id),
    "wrong_card": _of("", values.wrong_card),
    "wrong_code": _of("", values.wrong_code),
    "imei": _of("", values.imei),
    "order": _of("", values.order_number),
    "stamp": _of("", values.stamp),
    "hash": _of("", values.fingerprint),
    "version": _of("", values.version),
    "price": _of("", values.price),
    "digits6": _of("", lambda rng: values.digits(rng, 6)),
    "digits9": _of("", lambda rng: values.digits(rng, 9)),
    "date": _of("", lambda rng: values.day(rng, 2019, 2027).strftime("%Y-%m-%d")),
}
"""What stands for each name in a sentence: the text, its type (none: no personal data), how it is written."""
