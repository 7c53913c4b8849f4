"""The wheels of this tree and of a later one, each installed into an environment of its own."""

from wheel.conftest import wheels

__all__ = ["wheels"]
