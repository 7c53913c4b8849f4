"""The forwarder: `python -m sextant.app.forwarder_process --settings run/forwarder.json`.

Runs where the document has `spec.centre`. It reads the ledger and writes two small files: the cursor, which
outlives a start, and what control and `sextant status` show.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
from pathlib import Path

import msgspec

from sextant.app.courier import Centre, Courier
from sextant.app.entry import run_entry
from sextant.app.forwarding import Forwarder
from sextant.app.outbox import Outbox
from sextant.app.state import write_private
from sextant.base.config import resolve_secret
from sextant.base.errors import Misconfigured
from sextant.spec.sites import ForwardStatus, read_forward_status
from sextant.store.accounts_database import wall_clock_ms

SIGN_OF_LIFE_S = 10.0
"""The status is written at least so often, which is how the supervisor sees that this works."""


class ForwarderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the supervisor tells the forwarder, as a JSON file. `credential_ref` is a secret reference."""

    ledger_db: str
    centre: Centre
    credential_ref: str
    cursor_file: str
    """Kept over starts. Losing it loses nothing: the centre says where it stands."""
    status_file: str


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sextant.app.forwarder_process")
    parser.add_argument("--settings", required=True, type=Path)
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args(argv)
    return run_entry("forwarder", lambda: run_forwarder(_settings(given.settings)), log_level=given.log_level)


def run_forwarder(settings: ForwarderSettings) -> None:
    """Forwards until SIGTERM or SIGINT. A batch under way is not waited for: it is sent again."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    cursor_file, status_file = Path(settings.cursor_file), Path(settings.status_file)
    before = read_forward_status(cursor_file) or ForwardStatus()
    line = Courier(settings.centre, lambda: resolve_secret(settings.credential_ref))
    forwarder = Forwarder(
        Outbox(Path(settings.ledger_db)),
        line,
        status=before,
        now_ms=wall_clock_ms,
        chance=random.SystemRandom(),
    )
    # before the line is tried, which may swallow packets: that this lives is no question of the line
    write_private(status_file, msgspec.json.encode(forwarder.status))
    while not stopping.is_set():
        pause_s = forwarder.step()
        if forwarder.status.number != before.number or forwarder.status.request_id != before.request_id:
            before = forwarder.status
            write_private(cursor_file, msgspec.json.encode(before))
        while not stopping.is_set():
            write_private(status_file, msgspec.json.encode(forwarder.status))
            part_s = min(pause_s, SIGN_OF_LIFE_S)
            stopping.wait(part_s)
            pause_s -= part_s
            if pause_s <= 0:
                break


def _settings(path: Path) -> ForwarderSettings:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ForwarderSettings)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"the forwarder's settings {path} cannot be read: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
