"""Structured logs: one JSON object a line, without secrets and personal data, whatever path they came by.

Every process calls `start_logging` once at its entry; everything else uses `logging.getLogger(__name__)` and
passes facts as `extra={…}`. Prompts and answers are never logged; that is the caller's duty, since no filter
can tell them apart. Redaction is the second line of defence, not the first.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sextant.privacy.detector import Detector

MESSAGE_CHARS = 8192
"""Longer messages and values are cut."""

_REDACTED = "***"
_SECRETS = re.compile(
    r"""(?ix)
    \b(?:sk|ak|hf|ghp|gho|xox[abp])[-_][A-Za-z0-9_-]{8,}          # keys by their prefix
    | (?<=\bbearer\s)[^\s"',;]{8,}                                 # Authorization: Bearer …
    | (?<=\bbasic\s)[A-Za-z0-9+/=]{8,}                             # Authorization: Basic …
    | (?<=://)[^/\s:@]*:[^/\s@]+(?=@)                              # credentials in a URL
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*       # JSON web tokens
    | -----BEGIN[A-Z ]*PRIVATE\ KEY-----(?:.|\n)*?(?:-----END[A-Z ]*PRIVATE\ KEY-----|\Z)
    | (?:(?<=api_key=)|(?<=apikey=)|(?<=token=)|(?<=password=)|(?<=secret=))[^\s"'&;,]{4,}
    """
)
_SECRET_FIELD = re.compile(r"(?i)(^|_)(api_?key|authorization|cookie|password|secret|token)$")
_PERSONAL = ("CN_ID", "PHONE", "BANK_CARD", "USCC", "PASSPORT", "EMAIL", "SECRET")
"""What no log line needs. Addresses stay: operators look for them."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """`text` with everything that looks like a credential replaced by `***`, and personal data by its type
    (`<PHONE>`)."""
    text = _SECRETS.sub(_REDACTED, text)
    for span in reversed(_detector().find(text)):
        said = _REDACTED if span.type == "SECRET" else f"<{span.type}>"
        text = text[: span.start] + said + text[span.end :]
    return text


@functools.cache
def _detector() -> Detector:
    """Made with the first line, so that a process that logs nothing does not pay for it."""
    from sextant.privacy.detector import Detector

    return Detector(_PERSONAL)


def start_logging(process: str, *, level: str = "info", stream: IO[str] | None = None) -> None:
    """Sends the log records of this process to `stream` (standard error) as JSON lines, from `level` up.

    A second call replaces the first. Libraries below WARNING are silenced, whatever `level` is.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("sextant").setLevel(level.upper())
    logging.captureWarnings(True)


class JsonFormatter(logging.Formatter):
    """One record as one line: time (UTC), level, process, logger, message, `extra` fields, traceback."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        seconds, milliseconds = divmod(int(record.created * 1000), 1000)
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": _safe(record.getMessage()),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = _REDACTED if _SECRET_FIELD.search(name) else _plain(value)
        if record.exc_info:
            line["traceback"] = _safe(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def _plain(value: object) -> object:
    """A value for JSON: numbers stay, containers are walked, anything else becomes redacted text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {
            str(key): _REDACTED if _SECRET_FIELD.search(str(key)) else _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _safe(value if isinstance(value, str) else str(value))


def _safe(text: str) -> str:
    text = redact(text)
    return text if len(text) <= MESSAGE_CHARS else text[: MESSAGE_CHARS - 1] + "…"
