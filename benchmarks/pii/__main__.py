"""`make bench-pii`: precision and recall by type on the generated set, and what looking costs per KiB.

The detectors' default setup is timed; names and addresses, which are opt-in, are scored with it. `--presidio`
scores Presidio's pattern recognisers on the same texts, where the extra `presidio` is installed. `--errors N`
shows N errors of each kind.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import machine, payload, report
from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.pii.generate import CHECKSUMMED, Document, documents
from benchmarks.pii.score import Cost, Found, Score, cost, score
from benchmarks.pii.sentences import CODE, PLAIN
from benchmarks.servers import ROOT
from sextant.privacy.detector import Detector
from sextant.privacy.mask import Vault, literal_tokens, mask
from sextant.privacy.restore import Tokens
from sextant.privacy.spans import BUILT_IN, OPT_IN

SEED = 20261122
"""Another than those that the detectors were written against."""
DOCUMENTS = {"full": 20_000, "short": 3_000}
LEAST_SHARE = 0.98
MOST_US_PER_KIB = 35.0
TEXT_CHARS = 2048
LABELLED = "the labelled set"
GATEWAY_PROMPT = "the gateway benchmark's prompt"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.pii")
    parser.add_argument("--form", choices=sorted(DOCUMENTS), default="full")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--errors", type=int, default=0)
    parser.add_argument("--presidio", action="store_true")
    given = parser.parse_args(argv)
    texts = documents(given.seed, DOCUMENTS[given.form])
    by_type, by_kind, errors = score(texts, _finder(Detector((*BUILT_IN, "NAME", "ADDRESS"))))
    speed = _speed(texts)
    peer = _presidio(texts) if given.presidio else {}
    goals = _goals(by_type, speed)
    if given.form == "full" and given.seed == SEED:
        _write(by_type, by_kind, speed, peer)
    print(_tables(by_type, by_kind, speed, peer))
    _show(errors, given.errors)
    rates = {name: one.us_per_kib for name, one in speed.items()}
    print(last_line("pii", {"us_per_kib": rates, "recall": _shares(by_type)}, goals))
    return exit_code(goals)


def _finder(detector: Detector) -> Callable[[str], list[Found]]:
    return lambda text: [(span.start, span.end, span.type) for span in detector.find(text)]


def _speed(texts: Sequence[Document]) -> dict[str, Cost]:
    """Processor time per KiB of UTF-8 in the default setup (all built-in types, nothing opt-in), by what the
    text is like."""
    detector = Detector()
    rng = random.Random(SEED)
    prose = [sentence for sentence in PLAIN if "{" not in sentence]
    kinds = {
        LABELLED: [document.text for document in texts[:2000]],
        "prose, Chinese": _grown(rng, [s for s in prose if not s.isascii()]),
        "prose, English": _grown(rng, [s for s in prose if s.isascii()]),
        "code": _grown(rng, [s for s in CODE if "{" not in s]),
    }
    kinds[f"prose, one telephone number in {TEXT_CHARS:,} characters"] = [
        f"{text[:600]} 请打 13800138000 {text[600:]}"
        for text in kinds["prose, English"] + kinds["prose, Chinese"]
    ]
    kinds[GATEWAY_PROMPT] = [payload.prompt(personal=True)] * 500
    found = {name: cost(those, detector.find, detector.find) for name, those in kinds.items()}
    found[f"{LABELLED}, masked and restored"] = cost(
        kinds[LABELLED], detector.find, lambda text: _there_and_back(detector, text)
    )
    return found


def _there_and_back(detector: Detector, text: str) -> str:
    vault = Vault(literal_tokens([text]))
    return Tokens(vault.values).restore(mask(text, detector.find(text), vault))


def _grown(rng: random.Random, sentences: Sequence[str]) -> list[str]:
    """Texts of some size made of these sentences."""
    texts = []
    for _ in range(50):
        text = ""
        while len(text) < TEXT_CHARS:
            text += rng.choice(sentences) + " "
        texts.append(text)
    return texts


def _presidio(texts: Sequence[Document]) -> dict[str, Score]:
    from sextant.privacy.presidio import Presidio

    peer = Presidio()
    found, _, _ = score(texts[:2000], lambda text: [(s.start, s.end, s.type) for s in peer.find(text)])
    return {type_: row for type_, row in found.items() if row.found and row.labels}


def _goals(by_type: dict[str, Score], speed: dict[str, Cost]) -> list[Goal]:
    goals = []
    for type_ in CHECKSUMMED:
        goals.append(Goal(f"precision of {type_}", by_type[type_].precision, LEAST_SHARE))
        goals.append(Goal(f"recall of {type_}", by_type[type_].recall, LEAST_SHARE))
    usual = [one.us_per_kib for name, one in speed.items() if not name.startswith(LABELLED)]
    goals.append(Goal("us per KiB of prose, code and prompts", max(usual), MOST_US_PER_KIB, at_least=False))
    dense = speed[LABELLED].us_per_kib
    goals.append(Goal("us per KiB of the labelled set", dense, MOST_US_PER_KIB, at_least=False))
    return goals


def _shares(by_type: dict[str, Score]) -> dict[str, float]:
    return {type_: round(row.recall, 4) for type_, row in sorted(by_type.items())}


def _tables(
    by_type: dict[str, Score], by_kind: dict[str, Score], speed: dict[str, Cost], peer: dict[str, Score]
) -> str:
    rows = [
        [
            type_ + (" (opt-in)" if type_ in OPT_IN else ""),
            report.thousands(row.labels),
            report.thousands(row.found),
            f"{row.precision:.4f}",
            f"{row.recall:.4f}",
            f"{row.cover:.4f}",
        ]
        for type_, row in sorted(by_type.items(), key=lambda pair: (pair[0] in OPT_IN, pair[0]))
    ]
    text = report.table(["type", "labels", "found", "precision", "recall", "covered"], rows)
    kinds = [
        [kind, report.thousands(row.labels), f"{row.recall:.4f}"] for kind, row in sorted(by_kind.items())
    ]
    text += "\n" + report.table(["type: how it is written", "labels", "recall"], kinds)
    costs = [
        [
            name,
            f"{one.findings_per_kib:.1f}",
            f"{one.us_per_kib:.1f}",
            "" if one.us_per_finding is None else f"{one.us_per_finding:.1f}",
        ]
        for name, one in speed.items()
    ]
    text += "\n" + report.table(["text", "findings per KiB", "us per KiB", "us per finding"], costs)
    if peer:
        rows = [[t, f"{r.labels}", f"{r.precision:.4f}", f"{r.recall:.4f}"] for t, r in sorted(peer.items())]
        text += "\nPresidio's pattern recognisers on 2,000 of the texts, where they know the type:\n\n"
        text += report.table(["type", "labels", "precision", "recall"], rows)
    return text


def _write(
    by_type: dict[str, Score], by_kind: dict[str, Score], speed: dict[str, Cost], peer: dict[str, Score]
) -> None:
    facts = machine.describe(ROOT / "benchmarks")
    folder = ROOT / "benchmarks" / "results"
    told = (
        f"{DOCUMENTS['full']:,} generated texts, seed {SEED}. A finding is right when type, start and "
        "end are those of the label; `covered` counts labels that findings of any type cover entirely. "
        "Synthetic: benchmarks/README.md says what that shows and what not.\n\n"
    )
    tables = _tables(by_type, by_kind, speed, peer)
    text = f"# Personal data benchmark\n{report.machine_list(facts)}\n{told}{tables}"
    (folder / "pii.md").write_text(text)
    data: dict[str, Any] = {
        "machine": facts,
        "seed": SEED,
        "types": {t: [r.labels, r.found, r.right, r.covered] for t, r in sorted(by_type.items())},
        "kinds": {k: [r.labels, r.right] for k, r in sorted(by_kind.items())},
        "us_per_kib": {name: one.us_per_kib for name, one in speed.items()},
        "findings_per_kib": {name: one.findings_per_kib for name, one in speed.items()},
        "presidio": {t: [r.labels, r.found, r.right, r.covered] for t, r in sorted(peer.items())},
    }
    (folder / "pii.json").write_text(json.dumps(data, indent=1) + "\n")


def _show(errors: Sequence[tuple[str, str, str]], most: int) -> None:
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    for what, type_, text in errors:
        seen[what, type_] += 1
        if seen[what, type_] <= most:
            print(what, type_, repr(text))


if __name__ == "__main__":
    sys.exit(main())
