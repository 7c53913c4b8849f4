"""Words before a number that say what it is, or that it is no personal data. Shared by the detectors."""

from __future__ import annotations

import re

REACH = 32
"""Characters before a candidate that are looked at."""

_LINK = r"""[\s:：=#"'“‘「（(\[<>是为号码的]*(?:(?:is|no|number|num|was|of|to)\b[\s.:：=#"']*)?$"""


def said_before(*words: str) -> re.Pattern[str]:
    """Matches where one of `words` (regular expressions) ends right before the end of the text."""
    return re.compile(rf"(?i)(?:{'|'.join(words)}){_LINK}")


def before(text: str, start: int) -> str:
    """What stands before a candidate, up to the line's beginning."""
    head = text[max(0, start - REACH) : start]
    return head[head.rfind("\n") + 1 :]


OTHER_NUMBER = said_before(
    "订单[号码]?",
    "[单编序批流运]号?",
    "流水[号码]?",
    "单[号据]",
    "运单",
    "快递[单号]*",
    "物流",
    "凭证",
    "发票[代号码]*",
    "批次",
    "序列",
    "版本",
    "时间戳",
    "工单",
    "条形?码",
    "商品",
    "编码",
    r"(?<![a-z])(?:[a-z_]*id|uid|sn|sku|ean|isbn|seq|ts)",
    "order",
    "tracking",
    "serial",
    "invoice",
    "reference",
    "ref",
    "ticket",
    "timestamp",
    "time",
    "batch",
    "barcode",
    "transaction",
    "build",
    "version",
    "size",
    "bytes",
    "offset",
    "hash",
    "commit",
    "nonce",
    "seed",
    "[¥￥$€£]",
)
"""Numbers of things: orders, parcels, versions, times, prices."""
