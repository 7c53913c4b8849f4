"""Precision and recall by type, and microseconds per KiB of text and per finding."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence

from benchmarks.pii.generate import Document

Found = tuple[int, int, str]
"""Start, end, type."""


@dataclasses.dataclass
class Score:
    """Of one type. A finding is right when it has the label's type, start and end: half a number masked is a
    leak, and a word too many changes the sentence."""

    labels: int = 0
    found: int = 0
    right: int = 0
    covered: int = 0
    """Labels that findings of any type cover entirely, so that nothing leaves."""

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        return self.right / self.labels if self.labels else 1.0

    @property
    def cover(self) -> float:
        return self.covered / self.labels if self.labels else 1.0


def score(
    documents: Iterable[Document], find: Callable[[str], Sequence[Found]]
) -> tuple[dict[str, Score], dict[str, Score], list[tuple[str, str, str]]]:
    """Scores by type, recall by type and way of writing, and each error as (what, type, text)."""
    by_type: dict[str, Score] = collections.defaultdict(Score)
    by_kind: dict[str, Score] = collections.defaultdict(Score)
    errors: list[tuple[str, str, str]] = []
    for document in documents:
        found = set(find(document.text))
        wanted = {(label.start, label.end, label.type) for label in document.labels}
        for start, end, type_ in found:
            by_type[type_].found += 1
            if (start, end, type_) not in wanted:
                errors.append(("false", type_, _around(document.text, start, end)))
        for label in document.labels:
            right = (label.start, label.end, label.type) in found
            covered = any(start <= label.start and label.end <= end for start, end, _ in found)
            for one in (by_type[label.type], by_kind[f"{label.type}: {label.kind}"]):
                one.labels += 1
                one.right += right
                one.covered += covered
            if not right:
                errors.append(("missed", label.type, _around(document.text, label.start, label.end)))
    return dict(by_type), dict(by_kind), errors


def _around(text: str, start: int, end: int) -> str:
    return f"{text[max(0, start - 16) : start]}[{text[start:end]}]{text[end : end + 8]}"


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of looking through one kind of text."""

    us_per_kib: float
    findings_per_kib: float

    @property
    def us_per_finding(self) -> float | None:
        """All of the cost shared among the findings; None where there are none."""
        return self.us_per_kib / self.findings_per_kib if self.findings_per_kib else None


def cost(texts: Sequence[str], find: Callable[[str], Sequence[object]], act: Callable[[str], object]) -> Cost:
    """What `act` costs on `texts`, in which `find` says how much there is."""
    kib = sum(len(text.encode()) for text in texts) / 1024
    findings = sum(len(find(text)) for text in texts)
    return Cost(round(us_per_kib(texts, act), 1), round(findings / kib, 2))


def us_per_kib(texts: Sequence[str], act: Callable[[str], object], *, rounds: int = 7) -> float:
    """Processor time of the fastest of `rounds` passes over `texts`."""
    kib = sum(len(text.encode()) for text in texts) / 1024
    best_s = float("inf")
    for _ in range(rounds):
        begun_s = time.thread_time()
        for text in texts:
            act(text)
        best_s = min(best_s, time.thread_time() - begun_s)
    return best_s * 1e6 / kib
