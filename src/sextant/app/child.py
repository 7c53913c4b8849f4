"""One supervised process: started, watched, restarted with backoff, stopped.

`Child.run` is the loop of one process's lives; `Program` says what to start and how to ask whether it is
well. Death is seen at once through a pidfd, a hang through the probe. Neighbours: `supervisor.py` owns the
children.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from sextant.app.backoff import Backoff
from sextant.app.memory import tree_memory_bytes
from sextant.app.probe import Probe, ProbeFailed
from sextant.app.state import write_private
from sextant.base.config import child_environment, resolve_secret
from sextant.base.errors import Misconfigured
from sextant.base.lifeline import PARENT_VARIABLE

_log = logging.getLogger(__name__)

State = Literal["stopped", "starting", "ready", "unwell", "waiting"]

LOG_BYTES_MAX = 64 * 1024 * 1024
"""A log over this is moved to `NAME.log.1`, so each keeps at most about twice as much."""
CAUSE_CHARS_MAX = 300
TAIL_BYTES = 64 * 1024
MEMORY_LOOKS = 3
"""So many looks in a row must find too much memory in use."""
DRAIN_LOOK_S = 0.2


@dataclasses.dataclass(frozen=True)
class Program:
    """What to start. `files` (path to content) are written before each start, mode 0600."""

    name: str
    argv: tuple[str, ...]
    log_file: Path
    probe: Probe
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    secret_env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environment variable to secret reference, resolved at each start."""
    ready_timeout_s: float = 30.0
    stop_timeout_s: float = 5.0
    hang_timeout_s: float = 30.0
    """A process that was ready and then says nothing for so long is killed and started again."""
    probe_interval_s: float = 0.5
    work_probe: Probe | None = None
    """Asked now and then of a ready process, with a long patience of its own: whether it still works, where
    the health check would be answered even by one whose work stands still. Two silences in a row, and it is
    killed."""
    work_interval_s: float = 10.0
    memory_interval_s: float = 5.0
    memory_max_bytes: int = 0
    """Resident memory of its whole process tree beyond which it is drained and started again; 0: no bound."""
    idle: Callable[[], Awaitable[bool]] | None = None
    """Whether it has nothing under way: a drain ends when it says so, or after `stop_timeout_s`."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """How a child is. `reason` says why it is not ready; `restarts` counts lives after the first."""

    state: State = "stopped"
    pid: int = 0
    restarts: int = 0
    reason: str = ""
    exit_code: int | None = None


class Child:
    """Keeps one `Program` running. `on_change` is called, in the loop, after each change of `condition`."""

    def __init__(
        self, program: Program, on_change: Callable[[Child], None], backoff: Backoff | None = None
    ) -> None:
        self.program = program
        self.condition = Condition()
        self._on_change = on_change
        self._backoff = backoff or Backoff()
        self._stopping = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_since_s: float | None = None
        self._ended = ""
        """How the life before ended."""
        self._log_offset = 0

    async def run(self) -> None:
        """Lives until `stop`. Never raises for a process that fails: that is what it is for."""
        wait_s = 0.0
        while not self._stopping.is_set():
            self._ready_since_s = None
            reason, exit_code = await self._live()
            self._ended = reason
            if self._stopping.is_set():
                break
            since = self._ready_since_s
            wait_s = self._backoff.next_s(wait_s, 0.0 if since is None else time.monotonic() - since)
            self._become("waiting", reason=reason, exit_code=exit_code)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
            if not self._stopping.is_set():
                self.condition = dataclasses.replace(self.condition, restarts=self.condition.restarts + 1)
        self._become("stopped")

    def signal(self, number: int) -> None:
        """Sends a signal to the process, if there is one."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def stop(self) -> None:
        """Asks the process to end and `run` to return; it is killed after `stop_timeout_s`."""
        self._stopping.set()

    def kill(self) -> None:
        """Ends the process at once; `run` goes on to the next life unless `stop` was called."""
        self.signal(signal.SIGKILL)

    async def _live(self) -> tuple[str, int | None]:
        """One life: from the start to the death. Returns why it ended and the exit code."""
        try:
            process = self._process = self._start()
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            return f"cannot be started: {error.strerror or error}{where}", None
        except Misconfigured as error:
            return f"cannot be started: {error.message}", None
        except ValueError as error:  # an argument or variable that no program can be given
            return f"cannot be started: {error}", None
        again = f"it is starting again; before: {self._ended}" if self._ended else "it is starting"
        self._become("starting", pid=process.pid, reason=again)
        with _watched_exit(process) as exited:
            watching = asyncio.ensure_future(self._watch())
            working = asyncio.ensure_future(self._watch_work())
            swelling = asyncio.ensure_future(self._watch_memory(process.pid))
            stopping = asyncio.ensure_future(self._stopping.wait())
            try:
                ends: set[asyncio.Future[Any]] = {watching, working, swelling, stopping, exited}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if exited.done():
                    code = _reap(process)
                    return self._cause(code), code
                if swelling.done():
                    swollen = swelling.result()
                    watching.cancel()  # its next look would call it ready again
                    self._become("unwell", reason=swollen)
                    await self._drained(stopping, exited)
                    await self._end(process, exited)
                    return swollen, None
                hung = next((task.result() for task in (watching, working) if task.done()), None)
                if hung is not None:
                    self._become("unwell", reason=hung)
                    _reap(process)
                    return hung, None
                await self._end(process, exited)
                return "stopped", process.returncode
            finally:
                for task in (watching, working, swelling, stopping):
                    task.cancel()
                await asyncio.gather(watching, working, swelling, stopping, return_exceptions=True)
                _reap(process)

    def _start(self) -> subprocess.Popen[bytes]:
        program = self.program
        for path, content in program.files.items():
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(Path(path), content)
        secrets = {name: resolve_secret(reference) for name, reference in program.secret_env.items()}
        trim_log(program.log_file)
        log = os.open(program.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._log_offset = os.fstat(log).st_size
            return subprocess.Popen(
                program.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is for the supervisor alone
                env=child_environment({**program.env, **secrets, PARENT_VARIABLE: str(os.getpid())}),
            )
        finally:
            os.close(log)

    async def _watch(self) -> str:
        """Asks for health for ever; returns the reason once the process must be killed."""
        started = time.monotonic()
        misses = 0
        silent_since: float | None = None
        while True:
            try:
                await self.program.probe()
            except ProbeFailed as failed:
                now = time.monotonic()
                if self._ready_since_s is None:
                    if now - started > self.program.ready_timeout_s:
                        return f"not ready within {self.program.ready_timeout_s:g} s: {failed}"
                    await asyncio.sleep(min(0.03 + (now - started) / 10, self.program.probe_interval_s))
                    continue
                misses += 1
                silent_since = None if failed.alive else silent_since or now
                if silent_since is not None and now - silent_since > self.program.hang_timeout_s:
                    return f"it hung: {failed}, for {now - silent_since:.0f} s"
                if misses > 1:  # a single miss is forgiven
                    self._become("unwell", reason=f"health check: {failed}")
            else:
                misses, silent_since = 0, None
                if self._ready_since_s is None:
                    self._ready_since_s = time.monotonic()
                self._become("ready", reason="")
            await asyncio.sleep(self.program.probe_interval_s)

    async def _watch_work(self) -> str:
        """Asks for work for ever; returns the reason once the process must be killed."""
        silences = 0
        while True:
            await asyncio.sleep(self.program.work_interval_s)
            if self.program.work_probe is None or self._ready_since_s is None:
                continue
            try:
                await self.program.work_probe()
            except ProbeFailed as failed:
                silences = 0 if failed.alive else silences + 1
                if silences > 1:
                    return f"its work stands still: {failed}"
            else:
                silences = 0

    async def _watch_memory(self, pid: int) -> str:
        """Looks at the memory for ever; returns the reason once the process must be started again."""
        most = self.program.memory_max_bytes
        over = 0
        while True:
            await asyncio.sleep(self.program.memory_interval_s)
            used = tree_memory_bytes(pid) if most else 0
            over = over + 1 if used > most else 0
            if over >= MEMORY_LOOKS:
                return (
                    f"it leaks memory: {used / 1e9:.2f} GB in use, {most / 1e9:.2f} GB allowed; started again"
                )

    async def _drained(self, *ends: asyncio.Future[Any]) -> None:
        """Waits until nothing is under way or one of `ends` is done, at most `stop_timeout_s`: nobody sends
        it more by then."""

        async def until_idle() -> None:
            while self.program.idle is None or not await self.program.idle():
                await asyncio.sleep(DRAIN_LOOK_S)

        waiting = asyncio.ensure_future(until_idle())
        await asyncio.wait(
            {waiting, *ends}, timeout=self.program.stop_timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    async def _end(self, process: subprocess.Popen[bytes], exited: asyncio.Future[None]) -> None:
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.program.stop_timeout_s):
                await asyncio.shield(exited)
        _reap(process)

    def _cause(self, code: int) -> str:
        how = f"exit status {code}"
        if code < 0:
            how = f"killed by {signal.Signals(-code).name if -code in _SIGNALS else f'signal {-code}'}"
        last = last_words(self.program.log_file, self._log_offset)
        return f"{how}: {last}" if last else how

    def _become(
        self, state: State, *, reason: str = "", pid: int | None = None, exit_code: int | None = None
    ) -> None:
        alive = state in ("starting", "ready", "unwell")
        new = dataclasses.replace(
            self.condition,
            state=state,
            reason=reason,
            pid=(self.condition.pid if pid is None else pid) if alive else 0,
            exit_code=exit_code,
        )
        if new != self.condition:
            self.condition = new
            self._on_change(self)


def trim_log(log_file: Path) -> None:
    """Moves what an overlong log holds to `NAME.log.1`. Its writer goes on where it was: it appends, so its
    next line is the first of the emptied file; a line written in the instant between copy and cut is lost."""
    try:
        if log_file.stat().st_size <= LOG_BYTES_MAX:
            return
        older = log_file.with_name(log_file.name + ".1")
        older.touch(mode=0o600)
        shutil.copyfile(log_file, older)
        os.truncate(log_file, 0)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.error("the log %s cannot be trimmed: %s", log_file, error)


def last_words(log_file: Path, offset: int) -> str:
    """The line of a log, from `offset` on, that best says why its process ended; empty when there is none.

    Our own processes end with a line that begins with `sextant: `. Of a foreign program's it is the first
    error that is no mere consequence of another, then any error, then the last line of all.
    """
    try:
        with log_file.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            offset = 0 if offset > end else offset  # it was trimmed meanwhile
            file.seek(max(offset, end - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return ""
    spoken = [re.sub(r"[^\x20-\x7e\u00a0-\U0010ffff]+", " ", line).strip() for line in lines]
    spoken = [line for line in spoken if line]
    spoken = [line for line in spoken if not line.startswith(_NO_CAUSE) and not _ROUTINE.match(line)]
    ours = [line.removeprefix("sextant: ") for line in spoken if line.startswith("sextant: ")]
    causes = [
        found["cause"]
        for line in spoken
        if not _WARNING.search(line) and (found := _CAUSE.search(line)) is not None
    ]
    telling = [cause for cause in causes if not _CONSEQUENCE.search(cause)]
    theirs = telling[:1] or causes[-1:]
    if ours and theirs and ours[-1].endswith(_SEE_ABOVE):
        ours = [f"{ours[-1].removesuffix(_SEE_ABOVE)}: {theirs[0]}"]
    said = ours or theirs or spoken
    return said[-1][:CAUSE_CHARS_MAX] if said else ""


_SEE_ABOVE = "; the lines above say why"
_NO_CAUSE = ("sextant: engine answers", "sextant: engine stops")
_ROUTINE = re.compile(r'\{"time":.*"level":"(?:debug|info)"')
"""Our own log's lines, as of each request: no reason to end."""
_CAUSE = re.compile(
    r"(?P<cause>(?:\b(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)"
    r"|\b(?:error|fatal)(?: \w+){0,4})\b ?: .*\S)",
    re.ASCII,
)
"""The last line of a Python traceback, or what C programs say."""
_WARNING = re.compile(r"\b(?:WARN|WARNING|INFO|DEBUG)\b")
_CONSEQUENCE = re.compile(
    r"(?i)root cause above|engine (?:core|process) (?:initialization )?(?:failed|died)|EngineDeadError|"
    r"worker (?:died|failed)|process \d+ terminated|SystemExit|see (?:the )?(?:stack ?trace|logs?|above)"
)
"""Says only that something else failed before."""


_SIGNALS = frozenset(int(number) for number in signal.Signals)


@contextlib.contextmanager
def _watched_exit(process: subprocess.Popen[bytes]) -> Iterator[asyncio.Future[None]]:
    """A future that completes when the process has died, through a pidfd: no thread, no polling."""
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[None] = loop.create_future()
    descriptor = os.pidfd_open(process.pid)

    def dead() -> None:
        loop.remove_reader(descriptor)
        if not exited.done():
            exited.set_result(None)

    loop.add_reader(descriptor, dead)
    try:
        yield exited
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Kills what is left of the process and of all that it started, and collects it. Idempotent.

    The group is killed before the leader is collected: until then its number cannot belong to another.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
