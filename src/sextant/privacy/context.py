"""Words before a number that say what it is, or that it is no personal data. Shared by the detectors.

All of them are one set of automata (RE2): a look back costs a microsecond or two whatever their number.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import re2

REACH = 32
"""Characters before a candidate that are looked at."""

Subject = Literal["other", "phone", "card", "id", "passport", "plate", "version", "host"]

_LINK = (
    r"""[\s:：=#"'“‘「（(\[<>是为号码的]*"""
    r"""(?:(?:is|no|number|num|was|of|to)[\s.:：=#"'][\s.:：=#"']*|(?:is|no|number|num)\.?)?$"""
)
_WORDS: tuple[tuple[Subject, tuple[str, ...]], ...] = (
    (
        "other",
        (
            "订单[号码]?|[单编序批流运]号?|流水[号码]?|单[号据]|快递[单号]*|物流|凭证|发票[代号码]*|批次|序列|版本",
            "时间戳|工单|条形?码|商品|编码",
            "(?:^|[^a-z])(?:[a-z_]*id|sn|sku|ean|isbn|seq|ts)",
            "order|tracking|serial|invoice|reference|ref|ticket|timestamp|time|batch|barcode|transaction|build",
            "version|size|bytes|offset|hash|commit|nonce|seed|[¥￥$€£]",
        ),
    ),
    (
        "phone",
        (
            "电话|手机|联系(?:方式|人)?|致电|拨打|热线|传真|座机|短信|微信",
            r"\btel(?:ephone)?\.?|phone|mobile|cell|\bcall(?:ed| me| us)?(?: (?:on|at))?|fax|whatsapp",
            "reach(?: me| us)? (?:on|at)|text|dial|sms",
        ),
    ),
    ("card", ("卡|[账帐][号户]", "card|account|acct|visa|mastercard|unionpay")),
    ("id", ("身份证?|证件", r"\bid card|identity|resident id")),
    ("passport", ("护照|通行证|证件", "passport(?: no| number)?|travel document")),
    ("plate", ("车牌|牌照|车号|车辆|号牌", "plate|vehicle")),
    (
        "version",
        (r"(?:\bv|[=<>~^]=?|firmware|固件|chrome|safari|firefox|edge|补丁|section|chapter|章节?|第)[./]?",),
    ),
    ("host", (r"\bip(?:v4)?|addr(?:ess)?|host|server|dns|ping|ssh|from|client|@|//|地址|主机|服务器|来源",)),
)


def _compiled() -> re2.Set:
    words = re2.Set.SearchSet()
    for _, alternatives in _WORDS:
        words.Add(f"(?i)(?:{'|'.join(alternatives)}){_LINK}")
    words.Compile()
    return words


_SET = _compiled()
_SUBJECTS = tuple(subject for subject, _ in _WORDS)
_NONE: Collection[Subject] = ()


def said_before(text: str, start: int) -> Collection[Subject]:
    """What the words right before `start`, on the same line, speak of."""
    head = text[max(0, start - REACH) : start]
    matched = _SET.Match(head[head.rfind("\n") + 1 :].encode())
    return [_SUBJECTS[number] for number in matched] if matched else _NONE
