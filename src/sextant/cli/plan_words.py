"""The words of a plan, English and Chinese: keys are the English words themselves.

Single words and headings stand here. Sentences with numbers in them, as the planner makes them, stand in
`spec/data/plan.zh.toml` with a place for each number.
"""

from __future__ import annotations

import functools
import re
import tomllib
from importlib import resources

SENTENCES = "plan.zh.toml"
NESTED = 4
"""So deep can sentences stand within one another."""

ASSUMPTIONS = {
    "power_usd_per_kwh": "power, USD/kWh",
    "pue": "PUE",
    "pue_edge": "PUE at the edge",
    "server_factor": "servers over cards",
    "serving_power_share": "power share when serving",
    "host_watts_factor": "host's power over cards'",
    "maintenance_share_per_year": "upkeep, share a year",
    "peak_hours_share": "share of peak hours",
    "api_peak_share": "share in the API's peak hours",
    "price_usd": "price of a card, USD",
    "usd_per_h": "rent of a card, USD/h",
    "requests_per_s": "load, requests/s",
    "prefix_hit_share": "prefix-cache hits",
}
"""What moves a cost, by its name in `planner/money.py`."""

ZH = {
    "power, USD/kWh": "电价，美元/kWh",
    "PUE": "PUE",
    "PUE at the edge": "边缘 PUE",
    "servers over cards": "整机与卡价之比",
    "power share when serving": "服务时功率占比",
    "host's power over cards'": "整机与卡功率之比",
    "upkeep, share a year": "每年维护占比",
    "share of peak hours": "高峰时间占比",
    "share in the API's peak hours": "API 高峰时段占比",
    "price of a card, USD": "单卡价格，美元",
    "rent of a card, USD/h": "单卡租金，美元/小时",
    "load, requests/s": "负载，请求/秒",
    "prefix-cache hits": "前缀缓存命中率",
    "moves most": "影响最大",
    "bought": "自购",
    "Report written to": "报告已写入",
    "Calibration written to": "校准已写入",
    "in flight": "并发请求",
    "in/out tokens": "输入/输出 token",
    "TTFT ms measured": "首字延迟毫秒（实测）",
    "TPOT ms measured": "每字延迟毫秒（实测）",
    "predicted": "预测",
    "ratio": "比值",
    "in the band": "在区间内",
    "yes": "是",
    "no": "否",
    "fitted": "用于拟合",
    "held out": "留作检验",
    "nothing was measured": "没有测到数据",
    "to": "至",
    "Plan": "方案",
    "Question": "需求",
    "Options": "可选方案",
    "accelerator": "加速卡",
    "count": "数量",
    "layout": "并行布局",
    "TTFT": "首字延迟",
    "TPOT": "每字延迟",
    "output tok/s": "输出 token/秒",
    "max req/s": "最大请求/秒",
    "USD/h": "美元/小时",
    "USD/Mtok": "美元/百万输出 token",
    "basis": "依据",
    "cheapest": "最便宜",
    "fastest": "最快",
    "most efficient": "最节能",
    "Memory of one accelerator": "单卡显存",
    "weights": "权重",
    "KV cache": "KV 缓存",
    "activations": "激活",
    "runtime": "运行时",
    "graphs": "计算图",
    "fragmentation": "碎片",
    "reserve": "预留",
    "free": "空闲",
    "Waiting, simulated": "排队(模拟)",
    "Three years by mode": "各模式三年总成本",
    "mode": "模式",
    "how": "方式",
    "up front": "一次性投入",
    "per month": "每月",
    "three years": "三年",
    "output tokens per USD": "每美元输出 token",
    "not known or left out": "未知或未计入",
    "Break-even against APIs": "与公共 API 的盈亏平衡",
    "API": "API",
    "there, per month": "API 每月",
    "here, per month": "自建每月",
    "cheaper here from": "自建更便宜的负载下限",
    "never at this capacity": "该容量下不会更便宜",
    "no longer sold": "已停售",
    "of capacity": "的容量",
    "Energy": "能耗",
    "What moves the three-year cost": "三年成本敏感性",
    "Throughput and latency": "吞吐与延迟",
    "Cost over time": "成本随时间变化",
    "Closest, and what to give up": "最接近的方案与需要放弃的条件",
    "No option meets this.": "没有方案能满足全部条件。",
    "Precisions": "量化选择",
    "precision": "精度",
    "GiB of weights": "权重 GiB",
    "measured": "实测",
    "computed": "计算",
    "expected loss of accuracy": "预期精度损失",
    "Three years by mode, from low to high": "各模式三年总成本（低到高）",
    "fine-tuning": "微调",
    "CPU sockets": "颗 CPU",
    "GiB of memory": "GiB 内存",
    "GiB of disk": "GiB 磁盘",
    "Gbit/s between servers": "Gbit/s 服务器互联",
    "Each server needs": "每台服务器需要",
    "more": "个更多",
    "in all": "整体",
    "requests": "个请求",
    "output tok/s as asked": "所需输出 token/秒",
    "Warnings": "警告",
    "Sources": "来源",
    "what": "指标",
    "value": "数值",
    "formula": "公式",
    "source": "来源",
    "months": "月",
    "output tokens per second": "输出 token/秒",
    "ms per token": "毫秒/token",
    "calibrated": "实测校准",
    "derived": "推算",
    "stated": "给定",
    "on-prem": "本地",
    "private-cloud": "私有云",
    "hybrid": "混合",
    "edge": "边缘",
    "container": "容器",
    "saas": "SaaS",
    "power": "功率",
    "per million output tokens": "每百万输出 token",
    "liquid cooling": "液冷",
    "capping off-peak": "低谷限功率",
    "spot training": "竞价实例训练",
    "a year": "每年",
    "saves": "节省",
    "The numbers in brackets hold 80 % of the time.": "括号内区间有 80% 的概率成立。",
}


def sentence(text: str, language: str) -> str:
    """A sentence of the planner in that language; itself where there is no other for it."""
    return _chinese(text, NESTED) if language == "zh" else text


def _chinese(text: str, depth: int) -> str:
    if text in ZH:
        return ZH[text]
    for pattern, chinese in _sentences() if depth else ():
        found = pattern.fullmatch(text)
        if found is not None:
            inner = {name: _chinese(value, depth - 1) for name, value in found.groupdict().items()}
            return chinese.format(**inner)
    return text


@functools.cache
def _sentences() -> tuple[tuple[re.Pattern[str], str], ...]:
    text = resources.files("sextant.spec").joinpath("data", SENTENCES).read_text(encoding="utf-8")
    return tuple((_pattern(one["en"]), one["zh"]) for one in tomllib.loads(text)["sentence"])


def _pattern(english: str) -> re.Pattern[str]:
    """What matches the sentence with anything in its places."""
    parts = re.split(r"\{(\w+)\}", english)
    return re.compile(
        "".join(f"(?P<{part}>.+?)" if at % 2 else re.escape(part) for at, part in enumerate(parts))
    )


def word(text: str, language: str) -> str:
    """`text` in that language; itself where there is no other word for it."""
    return ZH.get(text, text) if language == "zh" else text
