"""The identity process: `python -m sextant.app.identity_process --address unix:///… --file FILE …`.

Keeps the deployment's own SPIFFE certificate fresh for gateways and supervisor; see
`security/spiffe_source.py`. Without a Workload API it waits for one and says so in the file.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from sextant.app.entry import run_entry


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sextant.app.identity_process")
    parser.add_argument("--address", required=True)
    parser.add_argument("--trust-domain", required=True)
    parser.add_argument("--file", required=True, type=Path)
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args(argv)

    def body() -> None:
        from sextant.security.spiffe_source import IdentityFile, Source

        source = Source(given.address, IdentityFile(given.file, given.trust_domain))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: source.stop())
        source.run()

    return run_entry("identity", body, log_level=given.log_level)


if __name__ == "__main__":
    sys.exit(main())
