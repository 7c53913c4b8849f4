"""Fixtures for all tests, and one profile for property tests: the same examples in every run."""

from hypothesis import settings

from stack import stack

__all__ = ["stack"]

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
