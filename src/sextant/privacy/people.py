"""Names and postal addresses, by the words around them. Low confidence, so a policy must ask for them.

There is no checksum and no dictionary of people: a name is found where the text introduces one (`姓名：`,
`Mr`, `my name is`), an address where its administrative words are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sextant.privacy.spans import Span

NAME_GATE = (
    r"(?i)姓名|名字|联系人|收件人|收货人|患者|客户|我叫|我是|先生|女士|小姐|老师|医生|经理|同学|员工|申请人|户名|持卡人"
    r"|\b(?:mr|mrs|ms|miss|dr|prof)\b|name is|name:|i am|i'm|patient|dear|sincerely|regards|contact"
)
ADDRESS_GATE = (
    r"(?i)[市区县镇路街道村].{0,40}号|地址|address|\b(?:street|st|avenue|ave|road|rd|blvd|lane|drive|dr)\b"
)

_SURNAMES = (
    "欧阳|司马|上官|诸葛|东方|皇甫|尉迟|公孙|令狐|慕容|[王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏"
    "薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文庞樊兰殷施陶洪翟安颜倪严牛温芦季俞章鲁葛伍"
    "韦申尤毕聂丛焦向柳邢路岳齐沿梅莫庄辛管祝左涂谷祁时舒耿牟卜詹关苗凌费纪靳盛童欧甄项曲成游阳裴席卫查屈鲍位覃霍翁隋植甘景薄单包司柏宁柯阮桂闵]"
)
_GIVEN = "[\u4e00-\u9fa5]{1,2}"
_CUED = re.compile(
    rf"(?:姓名|名字|联系人|收件人|收货人|患者|客户|我叫|我是|申请人|户名|持卡人|员工)(?:是|为|叫|[:：\s]){{0,3}}"
    rf"(?P<name>(?:{_SURNAMES}){_GIVEN}?)(?=[\s,，。;；、:：()（）的在于和与]|先生|女士|$|[^\u4e00-\u9fa5])"
)
_TITLED = re.compile(
    rf"(?<![\u4e00-\u9fa5])(?P<name>(?:{_SURNAMES}){_GIVEN}?)(?=先生|女士|小姐|老师|医生|经理|同学)"
)
_WORD = r"[A-Z][a-z]+(?:[-'][A-Z]?[a-z]+)?"
_ENGLISH = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? "
    r"|(?:[Nn]ame is |[Nn]ame: ?|I am |I'm |[Pp]atient:? |Dear |[Cc]ontact:? |Sincerely,\s|[Rr]egards,\s))"
    rf"(?P<name>{_WORD}(?: [A-Z]\.)?(?: {_WORD}){{0,2}})"
)
_ADDRESS = re.compile(
    r"(?P<address>(?:[\u4e00-\u9fa5]{2,8}?(?:省|自治区))?(?:[\u4e00-\u9fa5]{2,8}?市)?(?:[\u4e00-\u9fa5]{1,8}?[区县旗])?"
    r"(?:[\u4e00-\u9fa5]{1,8}?(?:镇|乡|街道))?[\u4e00-\u9fa50-9]{1,12}?(?:路|街|道|巷|弄|胡同|村|大街|大道)"
    r"[\u4e00-\u9fa5]{0,4}[0-9甲乙]{1,6}号(?:院|楼)?(?:[\u4e00-\u9fa5A-Z]{0,8}[0-9A-Z]{1,4}(?:号楼|栋|幢|座|楼|单元|室|层)){0,4}(?:[0-9]{1,5}室?)?)"
)
_CUE = re.compile(r"^(?:.{0,6}?(?:地址|住址|住在|寄到|寄往|位于|家住|送到|收货)(?:是|为|[:：\s])?)")
_STREET = re.compile(
    r"(?P<address>\b[0-9]{1,5} (?:[NSEW]\.? )?(?:[A-Z][a-z]+ ){1,3}"
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Way)\b\.?"
    r"(?:,? (?:Apt|Suite|Unit|Ste|#)\.? ?[0-9A-Z]{1,5})?"
    r"(?:, [A-Z][a-z]+(?: [A-Z][a-z]+)?)?(?:, [A-Z]{2}(?: [0-9]{5})?)?)"
)


def find_names(text: str) -> Iterator[Span]:
    """Spans of NAME."""
    for pattern in (_CUED, _TITLED, _ENGLISH):
        for match in pattern.finditer(text):
            yield Span(match.start("name"), match.end("name"), "NAME", 0.6)


def find_postal(text: str) -> Iterator[Span]:
    """Spans of ADDRESS."""
    for match in _ADDRESS.finditer(text):
        cue = _CUE.match(match["address"])
        start = match.start("address") + (cue.end() if cue else 0)
        yield Span(start, match.end("address"), "ADDRESS", 0.6)
    for match in _STREET.finditer(text):
        yield Span(match.start("address"), match.end("address"), "ADDRESS", 0.6)
