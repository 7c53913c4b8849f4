"""What a detector says: a span of the text, of which type, how surely. Neighbours: `detector.py` collects."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import pairwise

import msgspec

BUILT_IN = (
    "CN_ID",
    "PHONE",
    "BANK_CARD",
    "USCC",
    "PASSPORT",
    "PLATE",
    "EMAIL",
    "IP",
    "BIRTH_DATE",
    "SECRET",
)
"""Types that are looked for unless a policy allows them."""
OPT_IN = ("NAME", "ADDRESS", "PRESIDIO")
"""Looked for only where a policy asks for them: types of low confidence, and whatever Presidio finds."""


class Span(msgspec.Struct, frozen=True, gc=False):
    """`text[start:end]` looks like personal data. `confidence` is 0 to 1: from 0.95 a checksum agrees."""

    start: int
    end: int
    type: str
    confidence: float


_start = operator.attrgetter("start")


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """The surest spans that do not overlap (of equally sure ones the longest), in the order of the text."""
    ordered = sorted(spans, key=_start)
    if all(before.end <= after.start for before, after in pairwise(ordered)):
        return ordered
    kept: list[Span] = []
    cluster: list[Span] = []
    reach = 0
    for span in ordered:
        if cluster and span.start >= reach:
            kept += _surest(cluster)
            cluster = []
        cluster.append(span)
        reach = max(reach, span.end) if len(cluster) > 1 else span.end
    return kept + _surest(cluster)


def _surest(cluster: list[Span]) -> list[Span]:
    """Of spans that hang together, those that may stay."""
    if len(cluster) < 2:
        return cluster
    taken: list[Span] = []
    for span in sorted(cluster, key=lambda s: (-s.confidence, s.start - s.end, s.start)):
        if all(span.end <= other.start or span.start >= other.end for other in taken):
            taken.append(span)
    return sorted(taken, key=lambda s: s.start)
