"""The waits between a process's lives."""

from __future__ import annotations

from sextant.app.backoff import Backoff


def test_doubles_up_to_the_bound() -> None:
    backoff = Backoff(first_s=1, most_s=5, stable_s=60)
    waits = [0.0]
    for _ in range(5):
        waits.append(backoff.next_s(waits[-1], ready_for_s=0))
    assert waits[1:] == [1, 2, 4, 5, 5]


def test_starts_over_after_a_stable_life() -> None:
    backoff = Backoff(first_s=1, most_s=5, stable_s=60)
    assert backoff.next_s(5, ready_for_s=59) == 5
    assert backoff.next_s(5, ready_for_s=60) == 1
