"""Fixtures for all tests, and one profile for property tests: the same examples in every run."""

import gc

from hypothesis import settings

from fresh_accounts import _accounts_template, accounts_database
from servers import _postgres, _redis, database, postgres, private_redis, redis_server, redis_url
from stack import stack

__all__ = [
    "_accounts_template",
    "_postgres",
    "_redis",
    "accounts_database",
    "database",
    "postgres",
    "private_redis",
    "redis_server",
    "redis_url",
    "stack",
]


def pytest_collection_finish() -> None:
    """What was collected stays to the end: the garbage collector need not look at it again and again, and
    need not look after every 700 objects either, a tenth of the time of a test that builds an app."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
