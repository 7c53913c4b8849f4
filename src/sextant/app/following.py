"""Following a git repository: what its branch says is what the deployment serves.

The pull side of GitOps: `sextant follow` looks every so often, and at once when it gets a SIGHUP; a new
commit is fetched, checked, and handed to the running deployment, which takes it whole or not at all. A commit
that fails is not tried again until another comes or somebody asks; what was applied last stays. What is known
is kept in `source/sync.json`, so that it may be killed at any moment. Neighbours: `operations/git_source.py`
(git), `applying.py` (the running deployment).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from sextant.app.applying import Wanted, apply_document, running
from sextant.app.events import Doing, Event, Warned
from sextant.app.state import StateDir, write_private
from sextant.base.errors import Misconfigured, Permanent, SextantError
from sextant.control.settings import Status, Sync, read_sync
from sextant.operations.git_source import GitSource

BACKOFF_MAX_S = 60.0
JITTER_SHARE = 0.1

Say = Callable[[str], None]


class Follower:
    """Keeps one deployment in step with one repository. `say` hears, in sentences, what happens."""

    def __init__(self, state: StateDir, source: GitSource, say: Say) -> None:
        self._state = state
        self._source = source
        self._say = say
        wish = source.wish
        kept = read_sync(state.sync_file)
        if kept is None or (kept.repository, kept.branch, kept.path) != (
            source.shown,
            wish.branch,
            wish.path,
        ):
            kept = Sync(source.shown, wish.branch, wish.path)
        self.sync = kept

    def look(self, *, again: bool = False) -> bool:
        """Looks once, and applies what is new; whether the deployment serves the newest commit by then.
        `again`: also what failed before. Never raises SextantError: it is said, and kept in `sync`."""
        try:
            commit = self._source.newest()
            self._note(reached_ms=_now_ms(), newest=commit)
            self._bring(commit, again=again)
        except SextantError as error:
            if error.message != self.sync.trouble:
                self._say(error.message)
            if isinstance(error, Permanent) and error.code != "not_running":
                self._note(failed=self.sync.newest, failed_why=error.message)
            self._note(
                trouble=error.message,
                failures=self.sync.failures + 1,
                failed_in_a_row=self.sync.failed_in_a_row + 1,
            )
            return False
        return not self.sync.trouble

    def wait_s(self, every_s: float) -> float:
        """How long until the next look: longer after failures that may pass, never at the same moment as all
        other hosts."""
        tries = self.sync.failed_in_a_row if self.sync.failed != self.sync.newest else 0
        wait_s = min(max(every_s, BACKOFF_MAX_S), every_s * 2.0 ** min(tries, 16))
        return wait_s * random.uniform(1 - JITTER_SHARE, 1 + JITTER_SHARE)

    def _bring(self, commit: str, *, again: bool) -> None:
        """Has the deployment serve `commit`. Raises SextantError."""
        status = running(self._state)
        serves = ""
        if status.applied is not None and status.applied.path in (self.sync.path, ""):
            serves = status.applied.revision  # another document of the same commit is something else
        if serves == commit:
            if self.sync.trouble or self.sync.applied != commit:
                self._note_applied(commit, status)
            return
        if commit == self.sync.failed and not again:
            if self.sync.applied and serves != self.sync.applied:
                self._say(f"the deployment serves something else; back to {self.sync.applied[:12]}")
                self._apply(self.sync.applied)
            self._note(trouble=self.sync.failed_why)
            return
        if commit == self.sync.applied:
            self._say(f"the deployment serves something else; back to {commit[:12]}")
        commit = self._source.fetch()
        self._note(newest=commit)
        self._source.check(commit, after=self.sync.applied)
        self._say(f"{commit[:12]} {self._source.subject(commit)}")
        began_s = time.monotonic()
        self._apply(commit)
        self._say(f"{commit[:12]} is applied, {time.monotonic() - began_s:.1f} s after it was fetched")
        self._note_applied(commit, running(self._state))

    def _apply(self, commit: str) -> None:
        file, text = self._source.document(commit)
        wanted = Wanted(
            text,
            f"{self.sync.path} of {commit[:12]}",
            str(file.parent),
            commit,
            self._source.shown,
            self.sync.path,
        )
        wanted.document()
        apply_document(self._state, wanted, self._tell)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Doing):
            self._say(f"  {event.text}")
        elif isinstance(event, Warned):
            self._say(f"  warning: {event.text}")

    def _note_applied(self, commit: str, status: Status) -> None:
        since_ms = status.applied.since_ms if status.applied is not None else _now_ms()
        before = self.sync.applied
        self._note(
            applied=commit, applied_ms=since_ms, trouble="", failed="", failed_why="", failed_in_a_row=0
        )
        in_use = {path.parts[-1] for path in self._source_folders(status)}
        self._source.prune({commit, before, *in_use})

    def _source_folders(self, status: Status) -> Iterator[Path]:
        """The commits' folders that running engines have files in."""
        checkouts = self._state.source / "checkouts"
        for process in status.processes:
            path = Path(process.file)
            if process.file and path.is_relative_to(checkouts):
                yield checkouts / path.relative_to(checkouts).parts[0]

    def _note(self, **changes: object) -> None:
        self.sync = msgspec.structs.replace(self.sync, **changes)
        try:
            write_private(self._state.sync_file, msgspec.json.encode(self.sync))
        except OSError as error:
            self._say(f"warning: {self._state.sync_file} cannot be written: {error.strerror}")


@contextlib.contextmanager
def alone(state: StateDir) -> Iterator[None]:
    """Holds the folder of the repository for this process. Raises Misconfigured naming who has it."""
    try:
        state.source.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state.source / "pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(f"{state.source} cannot be made: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode().strip()
            raise Misconfigured(
                f"process {pid or '?'} follows a repository for this deployment already; stop it, or have it "
                f"look at once: kill -HUP {pid or 'PID'}",
                code="already_running",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
