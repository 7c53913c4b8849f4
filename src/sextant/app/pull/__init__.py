"""Models by name: from Hugging Face, a mirror of it, or ModelScope, into a folder of whole, verified files.

`parse_source` says what a text means, `cached` finds what was fetched before, `plan_download` decides what to
fetch, `fetch` brings it. A path on this machine never touches the network.
"""

from sextant.app.pull.cache import cached, fetched_folders, remove
from sextant.app.pull.events import (
    Progress,
    PullEvent,
    Retrying,
    TellPull,
    Verifying,
    WaitingForOther,
    tell_nobody,
)
from sextant.app.pull.fetch import fetch
from sextant.app.pull.hub import Access, Patience
from sextant.app.pull.plan import DownloadPlan, plan_download
from sextant.app.pull.source import LocalSource, NamedSource, Source, parse_source

__all__ = [
    "Access",
    "DownloadPlan",
    "LocalSource",
    "NamedSource",
    "Patience",
    "Progress",
    "PullEvent",
    "Retrying",
    "Source",
    "TellPull",
    "Verifying",
    "WaitingForOther",
    "cached",
    "fetch",
    "fetched_folders",
    "parse_source",
    "plan_download",
    "remove",
    "tell_nobody",
]
