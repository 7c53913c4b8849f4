"""The ledger process: `python -m sextant.app.ledger_process --db FILE --socket PATH`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sextant.app.entry import run_entry
from sextant.base.scheduling import shorten_slice
from sextant.store.ledger import run_ledger


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sextant.app.ledger_process")
    parser.add_argument("--db", required=True, type=Path)
    parser.add_argument("--socket", required=True, type=Path)
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args(argv)
    shorten_slice()
    return run_entry("ledger", lambda: run_ledger(given.db, given.socket), log_level=given.log_level)


if __name__ == "__main__":
    sys.exit(main())
