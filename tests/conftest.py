"""Fixtures for all tests."""

from stack import stack

__all__ = ["stack"]
