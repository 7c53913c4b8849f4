"""Values of each type, and things that only look like them, drawn from a seeded generator.

Written without the detectors' code or lists: check digits are computed here by their standards' formulas, so
that an error there is not repeated here.
"""

from __future__ import annotations

import datetime
import random
import string
import uuid

REGIONS = tuple(
    (
        "110101 110108 120104 130102 140105 150102 210103 220104 230103 310104 310115 320106 320505 330106 330212 "
        "340104 350203 360103 370102 370202 410105 420106 430104 440103 440305 440605 450103 460106 500112 510107 "
        "520102 530103 540102 610113 620102 630104 640105 650103 810000 830000"
    ).split()
)
MOBILE_PREFIXES = (
    "130 131 135 136 138 139 147 150 152 155 158 159 166 176 177 180 185 186 189 191 198 199".split()
)
AREAS = "010 020 021 022 023 024 025 027 028 029 0311 0371 0411 0431 0451 0512 0531 0571 0592 0731 0755 0769 0871 0898".split()
CARD_BEGINNINGS = (
    ("622202", 19), ("621700", 19), ("622848", 19), ("625965", 16), ("622588", 16), ("621483", 16),
    ("4", 16), ("51", 16), ("55", 16), ("37", 15), ("3530", 16),
)  # fmt: skip
PROVINCE_LETTERS = "京沪粤苏浙鲁川鄂湘闽皖冀豫陕津渝辽吉黑云贵桂琼晋甘青宁新藏蒙赣"
PLATE_CHARACTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
CODE_CHARACTERS = "0123456789ABCDEFGHJKLMNPQRTUWXY"
DOMAINS = "gmail.com qq.com 163.com outlook.com foxmail.com example.co.uk mail.tsinghua.edu.cn corp.example.io".split()
LATIN = "wei.zhang li_na mike-jones chen88 anna.kowalski t.nguyen zhouyu2020 o.brien hr+jobs sales01".split()
FAMILY = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦许何吕施张孔曹严华金魏陶姜"
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀兰霞平刚桂英子涵宇轩梓萱浩然欣怡"
ENGLISH_GIVEN = "James Mary Robert Linda Michael Susan David Karen Emily Daniel Olivia Lucas".split()
ENGLISH_FAMILY = "Smith Johnson Brown Miller Davis Wilson Anderson Taylor Thomas Clark Lewis Walker".split()
CITIES = ("北京市海淀区", "上海市浦东新区", "广东省深圳市南山区", "浙江省杭州市西湖区", "四川省成都市武侯区")
ROADS = ("中关村南大街", "世纪大道", "科技园路", "文三路", "天府一街", "人民路", "解放西路")


def luhn_digit(digits: str) -> str:
    """The digit that makes `digits` pass ISO/IEC 7812-1."""
    total = 0
    for place, digit in enumerate(digits[::-1]):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


def id_check(digits: str) -> str:
    """GB 11643 by its formula: the sum of 2**(17 - i) * a_i and the check is 1 mod 11."""
    total = sum(pow(2, 17 - place, 11) * int(digit) for place, digit in enumerate(digits))
    value = (1 - total) % 11
    return "X" if value == 10 else str(value)


def code_check(characters: str) -> str:
    """GB 32100 by its formula: weights 3**i mod 31."""
    total = sum(pow(3, place) % 31 * CODE_CHARACTERS.index(c) for place, c in enumerate(characters))
    return CODE_CHARACTERS[-total % 31]


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(count))


def day(rng: random.Random, first: int = 1945, last: int = 2012) -> datetime.date:
    """Any day of these years."""
    begin = datetime.date(first, 1, 1)
    return begin + datetime.timedelta(days=rng.randrange((datetime.date(last, 12, 31) - begin).days))


def resident_id(rng: random.Random) -> str:
    body = rng.choice(REGIONS) + day(rng).strftime("%Y%m%d") + digits(rng, 3)
    return body + id_check(body)


def mobile(rng: random.Random) -> str:
    return rng.choice(MOBILE_PREFIXES) + digits(rng, 8)


def landline(rng: random.Random) -> tuple[str, str]:
    """(area, number)."""
    area = rng.choice(AREAS)
    return area, str(rng.randint(2, 8)) + digits(rng, 7 if len(area) == 3 else 6 + rng.randint(0, 1))


def bank_card(rng: random.Random) -> str:
    begin, length = rng.choice(CARD_BEGINNINGS)
    body = begin + digits(rng, length - len(begin) - 1)
    return body + luhn_digit(body)


def credit_code(rng: random.Random) -> str:
    """A unified social credit code of a company or an institution."""
    head = rng.choice(("91", "92", "93", "12", "52")) + rng.choice(REGIONS[:38])
    body = head + "".join(rng.choice(CODE_CHARACTERS) for _ in range(9))
    return body + code_check(body)


def passport(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice("EG") + digits(rng, 8)
    if kind < 0.8:
        return "E" + rng.choice("ABCDEFGHJKLM") + digits(rng, 7)
    return rng.choice(("DE", "SE", "PE")) + digits(rng, 7)


def plate(rng: random.Random) -> str:
    """An ordinary plate, or one of a new-energy car."""
    head = rng.choice(PROVINCE_LETTERS) + rng.choice(PLATE_CHARACTERS)
    if rng.random() < 0.35:
        return head + rng.choice("DF") + rng.choice(PLATE_CHARACTERS + "123456789") + digits(rng, 4)
    body = list(digits(rng, 5))
    for _ in range(rng.choice((0, 0, 1, 2))):
        body[rng.randrange(5)] = rng.choice(PLATE_CHARACTERS)
    return head + "".join(body)


def email(rng: random.Random) -> str:
    return f"{rng.choice(LATIN)}{rng.choice(('', digits(rng, 2)))}@{rng.choice(DOMAINS)}"


def ip(rng: random.Random) -> str:
    """Version 4 or, one in four, version 6."""
    if rng.random() < 0.75:
        return ".".join(
            str(rng.randint(1, 223) if place == 0 else rng.randint(0, 254)) for place in range(4)
        ).replace("127.", "126.", 1)
    groups = [f"{rng.randrange(0x1000, 0x10000):x}" for _ in range(rng.choice((3, 5, 8)))]
    groups[0] = rng.choice(("2001", "2408", "fe80", "240e"))
    return ":".join(groups) if len(groups) == 8 else ":".join(groups[:-1]) + "::" + groups[-1]


def secret(rng: random.Random) -> str:
    """A key of a vendor, a token, a private key."""
    letters = string.ascii_letters + string.digits

    def some(count: int) -> str:
        return "".join(rng.choice(letters) for _ in range(count))

    return rng.choice(
        (
            f"sk-{some(32)}",
            f"sk-proj-{some(40)}",
            f"ghp_{some(36)}",
            f"AKIA{some(16).upper()}",
            f"LTAI{some(20)}",
            f"hf_{some(30)}",
            f"xoxb-{digits(rng, 11)}-{some(24)}",
            f"eyJhbGciOiJIUzI1NiJ9.eyJ{some(30)}.{some(43)}",
            f"-----BEGIN PRIVATE KEY-----\n{some(64)}\n{some(64)}\n-----END PRIVATE KEY-----",
        )
    )


def password(rng: random.Random) -> str:
    return (
        rng.choice(("Summer", "dragon", "Qwer", "passw0rd", "Tiger")) + digits(rng, 4) + rng.choice("!@#$%")
    )


def name(rng: random.Random) -> str:
    return rng.choice(FAMILY) + "".join(rng.choice(GIVEN) for _ in range(rng.choice((1, 2, 2))))


def english_name(rng: random.Random) -> str:
    return f"{rng.choice(ENGLISH_GIVEN)} {rng.choice(ENGLISH_FAMILY)}"


def address(rng: random.Random) -> str:
    """A Chinese postal address."""
    house = f"{rng.choice(CITIES)}{rng.choice(ROADS)}{rng.randint(1, 999)}号"
    return house + rng.choice(
        (
            "",
            f"{rng.randint(1, 30)}栋{rng.randint(101, 3309)}室",
            f"{rng.choice('ABC')}座{rng.randint(2, 30)}层",
        )
    )


def english_address(rng: random.Random) -> str:
    street = rng.choice(("Maple", "Oak", "Lincoln", "Sunset", "Park View"))
    kind = rng.choice(("Street", "Ave", "Road", "Blvd", "Lane"))
    return f"{rng.randint(1, 9999)} {street} {kind}, {rng.choice(('Springfield', 'Portland', 'Austin'))}"


def wrong_id(rng: random.Random) -> str:
    """A resident ID whose check digit is wrong."""
    right = resident_id(rng)
    return right[:17] + rng.choice([c for c in "0123456789X" if c != right[17]])


def wrong_card(rng: random.Random) -> str:
    right = bank_card(rng)
    return right[:-1] + str((int(right[-1]) + rng.randint(1, 9)) % 10)


def wrong_code(rng: random.Random) -> str:
    right = credit_code(rng)
    return right[:-1] + rng.choice([c for c in CODE_CHARACTERS if c != right[-1]])


def imei(rng: random.Random) -> str:
    body = rng.choice(("35", "86")) + digits(rng, 12)
    return body + luhn_digit(body)


def order_number(rng: random.Random) -> str:
    """As shops write them: by date, by sequence, with letters, or eleven digits that begin as a mobile does."""
    date = day(rng, 2019, 2026)
    return rng.choice(
        (
            date.strftime("%Y%m%d") + digits(rng, rng.choice((6, 8, 10))),
            date.strftime("%Y%m%d%H%M%S") + digits(rng, 4),
            digits(rng, rng.choice((12, 14, 16, 18, 19))),
            rng.choice(("SO", "PO", "ORD-", "DD", "SF", "YT")) + digits(rng, rng.choice((10, 12, 13))),
            rng.choice(("13", "15", "18")) + digits(rng, 9),
        )
    )


def stamp(rng: random.Random) -> str:
    """Seconds, milliseconds, microseconds, or written out."""
    seconds = rng.randrange(1_500_000_000, 1_800_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return rng.choice(
        (
            str(seconds),
            f"{seconds}{digits(rng, 3)}",
            f"{seconds}{digits(rng, 6)}",
            f"{seconds}.{digits(rng, 6)}",
            moment.strftime("%Y-%m-%d %H:%M:%S"),
            moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{digits(rng, 3)}Z",
            moment.strftime("%Y%m%d%H%M%S"),
        )
    )


def fingerprint(rng: random.Random) -> str:
    """A hash or a UUID."""
    if rng.random() < 0.4:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return f"{rng.getrandbits(512):0128x}"[: rng.choice((7, 12, 32, 40, 64))]


def version(rng: random.Random) -> str:
    parts = ".".join(str(rng.randint(0, 40)) for _ in range(rng.choice((3, 4, 4))))
    return rng.choice(("v", "version ", "版本 ", "==", "Chrome/")) + parts


def price(rng: random.Random) -> str:
    amount = rng.randrange(1_000_000, 99_999_999_999)
    return rng.choice(
        (f"¥{amount / 100:.2f}", f"{amount / 100:,.2f}元", f"${amount / 100:,.2f}", f"{amount}分")
    )
