"""What is personal data, and what only looks like it."""

from __future__ import annotations

import time

import pytest

from sextant.base.errors import BadRequest
from sextant.privacy.detector import PATTERNS, Detector
from sextant.privacy.normal import normalise
from sextant.privacy.spans import BUILT_IN

ALL = Detector((*BUILT_IN, "NAME", "ADDRESS"))
DETECTOR = Detector()


def found(text: str, detector: Detector = DETECTOR) -> list[tuple[str, str]]:
    return [(span.type, text[span.start : span.end]) for span in detector.find(text)]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("身份证11010519491231002X。", "CN_ID", "11010519491231002X"),
        ("id 110105 19491231 002x", "CN_ID", "110105 19491231 002x"),
        ("１１０１０５１９４９１２３１００２Ｘ", "CN_ID", "１１０１０５１９４９１２３１００２Ｘ"),
        ("1101051949\u200b1231002Х", "CN_ID", "1101051949\u200b1231002Х"),  # a Cyrillic Х
        ("身份证号：110105491231002", "CN_ID", "110105491231002"),
        ("手机13800138000", "PHONE", "13800138000"),
        ("𝟏𝟑𝟖𝟎𝟎𝟏𝟑𝟖𝟎𝟎𝟎", "PHONE", "𝟏𝟑𝟖𝟎𝟎𝟏𝟑𝟖𝟎𝟎𝟎"),
        ("+86 138-0013-8000", "PHONE", "+86 138-0013-8000"),
        ("打 (010) 6552-9988 找我", "PHONE", "(010) 6552-9988"),
        ("座机0755-26000000转", "PHONE", "0755-26000000"),
        ("tel 415-555-2671", "PHONE", "415-555-2671"),
        ("+44 20 7946 0958", "PHONE", "+44 20 7946 0958"),
        ("卡号 6222 0212 3456 7890 128", "BANK_CARD", "6222 0212 3456 7890 128"),
        ("4111-1111-1111-1111", "BANK_CARD", "4111-1111-1111-1111"),
        ("378282246310005", "BANK_CARD", "378282246310005"),
        ("税号91350100M000100Y43", "USCC", "91350100M000100Y43"),
        ("护照 E12345678", "PASSPORT", "E12345678"),
        ("Passport No: 533380006", "PASSPORT", "533380006"),
        ("车牌京A12345", "PLATE", "京A12345"),
        ("新能源粤BD12345停在", "PLATE", "粤BD12345"),
        ("沪A·F8888", "PLATE", "沪A·F8888"),
        ("写信到zhang.san+x@mail.example.com.cn，", "EMAIL", "zhang.san+x@mail.example.com.cn"),
        ("ａｂｃ＠ｑｑ．ｃｏｍ", "EMAIL", "ａｂｃ＠ｑｑ．ｃｏｍ"),
        ("from 10.20.30.40:8080", "IP", "10.20.30.40"),
        ("addr 2001:db8::1:2 up", "IP", "2001:db8::1:2"),
        ("生日：1990年1月2日", "BIRTH_DATE", "1990年1月2日"),
        ("She was born on March 5, 1985.", "BIRTH_DATE", "March 5, 1985"),
        ("1988-02-03出生于", "BIRTH_DATE", "1988-02-03"),
        ("key sk-abcdefghijklmnopqrstuv", "SECRET", "sk-abcdefghijklmnopqrstuv"),
        ("password=Hunter2!x", "SECRET", "Hunter2!x"),
        ("密码是Abc12345", "SECRET", "Abc12345"),
        ("postgres://u:pa55w0rd!@db.example.com/x", "SECRET", "u:pa55w0rd!"),
        ("Authorization: Bearer abcDEF123456789012345", "SECRET", "abcDEF123456789012345"),
    ],
)
def test_personal_data_is_found(text, kind, value):
    assert found(text) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "110105194912310021",  # a wrong check digit
        "11010519491332002X",  # no such day
        "订单号13800138000",
        "order_id=13912345678",
        "ORD-13812345678",
        "1700000000000 1700000000",
        "3.14159265358979323846",
        "2024-09-11 12:34:56.789012",
        "550e8400-e29b-41d4-a716-446655440000",
        "d41d8cd98f00b204e9800998ecf8427e",
        "4111111111111112",  # Luhn fails
        "91350100M000100Y44",
        "v1.2.3.4, version 10.0.19041.1, Chrome/120.0.6099.109",
        "127.0.0.1 and 0.0.0.0 and 255.255.255.0 and 1.2.3.400",
        "12:30:45 std::vector a::b 01:23:45:67:89:ab",
        "git clone git@github.com:org/repo.git; npm i @scope/pkg@1.2.3; icon@2x.png",
        "released on 1990-01-02 and born to run",
        "token: str = Field(None); api_key = os.environ['KEY']; password: <your password>; secret=${SECRET}",
        "max_tokens=4096 token_count: 123456",
        "¥12800.00 total 99,999,999.00",
        "云A股 新E代 京东",
    ],
)
def test_what_only_looks_like_it_is_left(text):
    assert found(text) == []


def test_several_kinds_side_by_side():
    text = "11010519491231002X 13800138000 2024-09-11 6222021234567890128 sk-abcdefghijklmnopqrst a@b.cn"
    kinds = [kind for kind, _ in found(text)]
    assert kinds == ["CN_ID", "PHONE", "BANK_CARD", "SECRET", "EMAIL"]


def test_private_keys_are_found_whole():
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIB13800138000\n-----END RSA PRIVATE KEY-----"
    assert found(f"here:\n{key}\nthanks") == [("SECRET", key)]
    assert found(f"cut off {key[:40]}") == [("SECRET", key[:40])]


def test_names_and_addresses_only_when_asked_for():
    text = "姓名：张三，住址北京市海淀区中关村大街27号院3号楼502室。Dear John Smith"
    assert found(text) == []
    assert found(text, ALL) == [
        ("NAME", "张三"),
        ("ADDRESS", "北京市海淀区中关村大街27号院3号楼502室"),
        ("NAME", "John Smith"),
    ]


def test_only_the_wanted_types_come():
    assert found("11010519491231002X 13800138000", Detector(["CN_ID"])) == [("CN_ID", "11010519491231002X")]
    assert found("11010519491231002X", Detector([])) == []


def test_own_patterns_take_their_group():
    own = Detector([], {"MRN": r"病历号[:：]?\s*(\d{6,10})", "ACCOUNT": r"ACC-\d{8}"})
    text = "病历号：１２３４５６７, 账户ACC-12345678 \ud800"
    assert found(text, own) == [("MRN", "１２３４５６７"), ("ACCOUNT", "ACC-12345678")]


@pytest.mark.parametrize(
    ("name", "expression", "said"),
    [
        ("PHONE", "x", "cannot name"),
        ("lower", "x", "cannot name"),
        ("A", "(", "no RE2 expression"),
        ("A", r"(a)\1", "no RE2 expression"),
        ("A", "x*", "matches nothing at all"),
        ("A", "x" * 1025, "over 1024 bytes"),
        ("A", "(?:x{1,900}y{1,900}){1,900}", "no RE2 expression"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(name, expression, said):
    with pytest.raises(BadRequest, match=said):
        Detector([], {name: expression})


def test_too_many_patterns_and_unknown_types_are_refused():
    with pytest.raises(BadRequest, match="at most"):
        Detector([], {f"A{n}": "x" for n in range(PATTERNS + 1)})
    with pytest.raises(BadRequest, match="no detector 'IDS'"):
        Detector(["IDS"])


@pytest.mark.parametrize(
    "text",
    [
        "1 " * 50_000,
        "1" * 100_000,
        "a@" * 50_000,
        "a." * 50_000,
        "1.1" * 30_000,
        "::" * 50_000,
        "password=" * 10_000,
        "eyJ" * 30_000,
        "北京市" * 30_000,
        "0-" * 50_000,
        "://a:" * 20_000,
        "E1" * 50_000,
        "A " * 50_000,
        "Dear A" * 9_000,
        "\\" * 100_000,
        "\\u12" * 20_000,
        "\u200b" * 100_000,
        "出生" * 30_000,
    ],
    ids=lambda text: text[:8],
)
def test_hostile_text_takes_linear_time(text):
    own = Detector((*BUILT_IN, "NAME", "ADDRESS"), {"EVIL": "(a|aa)+$|(1+)+x"})
    begun = time.process_time()
    spans = own.find(f"{text}\n手机13800138000")
    assert time.process_time() - begun < 5.0
    assert spans[-1].type == "PHONE"


def test_offsets_lead_back_through_what_vanished():
    text = "\u200b手\u200b\u200b机\u200b138\u20600013\ufeff8000\u200b。"
    (span,) = DETECTOR.find(text)
    assert text[span.start : span.end] == "138\u20600013\ufeff8000"
    normal = normalise(text)
    assert [text[slice(*normal.original(at, at + 1))] for at in range(len(normal.text))] == list(normal.text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (r'{"t": "name: x\n13800138000"}', "PHONE", "13800138000"),
        (r'{"t": "\u7535\u8bdd13800138000\u3002"}', "PHONE", "13800138000"),
        (r'"{\"t\": \"x\\n13800138000\\n\"}"', "PHONE", "13800138000"),
        (r"\u0031\u0033800138000", "PHONE", r"\u0031\u0033800138000"),
        (r"车牌\u4eac\uff2112345\u200b", "PLATE", r"\u4eac\uff2112345"),
        (r"姓名：\u5f20\u4e09，", "NAME", r"\u5f20\u4e09"),
    ],
)
def test_escapes_of_json_are_read(text, kind, value):
    assert found(text, ALL) == [(kind, value)]
