"""The set that the detectors are scored on: the same each time, rightly labelled, the goals met on a part."""

from __future__ import annotations

import random

from benchmarks.pii import values
from benchmarks.pii.generate import CHECKSUMMED, Document, Label, documents
from benchmarks.pii.score import score

from sextant.privacy.checksums import is_credit_code, is_luhn, is_resident_id
from sextant.privacy.detector import Detector


def test_one_seed_is_one_set_and_labels_are_where_they_say() -> None:
    made = documents(7, 200)
    assert made == documents(7, 200) != documents(8, 200)
    for document in made:
        for label in document.labels:
            assert document.text[label.start : label.end].strip()
            assert label.type


def test_both_ways_to_compute_a_check_digit_agree() -> None:
    rng = random.Random(1)
    for _ in range(500):
        assert is_resident_id(values.resident_id(rng)) and not is_resident_id(values.wrong_id(rng))
        assert is_luhn(values.bank_card(rng)) and not is_luhn(values.wrong_card(rng))
        assert is_credit_code(values.credit_code(rng)) and not is_credit_code(values.wrong_code(rng))


def test_what_counts_as_right() -> None:
    document = Document("call 13800138000 now", (Label(5, 16, "PHONE", "plain"),))
    for found, right, covered in (
        ([(5, 16, "PHONE")], 1, 1),
        ([(5, 16, "CN_ID")], 0, 1),
        ([(5, 12, "PHONE")], 0, 0),
        ([], 0, 0),
    ):
        by_type, _, errors = score([document], lambda _, found=found: found)
        row = by_type["PHONE"]
        assert (row.labels, row.right, row.covered) == (1, right, covered)
        assert bool(errors) is not bool(right)


def test_the_goals_hold_on_a_part_of_the_set() -> None:
    detector = Detector()
    by_type, _, _ = score(
        documents(5, 1500), lambda text: [(s.start, s.end, s.type) for s in detector.find(text)]
    )
    for type_ in CHECKSUMMED:
        assert by_type[type_].labels > 100
        assert by_type[type_].precision >= 0.98
        assert by_type[type_].recall >= 0.98
