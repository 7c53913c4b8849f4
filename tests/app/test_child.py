"""One supervised process: ready, dead, hung, stubborn, orphaned."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sextant.app import child as child_module
from sextant.app.backoff import Backoff
from sextant.app.child import Child, Condition, Program, last_words, trim_log
from sextant.app.probe import http_probe
from stack_under_test import alive, free_port

FAKE = Path(__file__).with_name("fake_process.py")
QUICK = Backoff(first_s=0.02, most_s=0.1, stable_s=60)


class Watched:
    """A child and every condition that it came to."""

    def __init__(self, tmp_path: Path, *modes: str, **options: float) -> None:
        self.port = free_port()
        self.seen: list[Condition] = []
        self._news = asyncio.Event()
        self.log = tmp_path / "fake.log"
        program = Program(
            name="fake",
            argv=(sys.executable, "-I", "-S", str(FAKE), str(self.port), *modes),
            log_file=self.log,
            probe=http_probe(f"http://127.0.0.1:{self.port}/health", timeout_s=0.3),
            work_probe=http_probe(f"http://127.0.0.1:{self.port}/work", timeout_s=0.2),
            probe_interval_s=0.05,
            **options,  # type: ignore[arg-type]
        )
        self.child = Child(program, self._note, QUICK)

    def _note(self, child: Child) -> None:
        self.seen.append(child.condition)
        self._news.set()

    async def until(self, wanted: Callable[[Condition], bool]) -> Condition:
        async with asyncio.timeout(10):
            while not any(wanted(condition) for condition in self.seen):
                self._news.clear()
                await self._news.wait()
        return next(condition for condition in self.seen if wanted(condition))


@asynccontextmanager
async def running(tmp_path: Path, *modes: str, **options: float) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path, *modes, **options)
    task = asyncio.create_task(watched.child.run())
    try:
        yield watched
    finally:
        watched.child.stop()
        async with asyncio.timeout(10):
            await task


async def test_becomes_ready_and_stops_on_sigterm(tmp_path: Path) -> None:
    async with running(tmp_path) as watched:
        ready = await watched.until(lambda c: c.state == "ready")
        assert alive(ready.pid)
    assert watched.seen[-1].state == "stopped"
    assert not alive(ready.pid)


async def test_death_is_seen_at_once_and_answered_with_a_new_life(tmp_path: Path) -> None:
    async with running(tmp_path) as watched:
        ready = await watched.until(lambda c: c.state == "ready")
        os.kill(ready.pid, signal.SIGKILL)
        loop = asyncio.get_running_loop()
        killed = loop.time()
        dead = await watched.until(lambda c: c.state == "waiting")
        assert loop.time() - killed < 1.0
        assert "SIGKILL" in dead.reason
        again = await watched.until(lambda c: c.state == "ready" and c.restarts == 1)
        assert again.pid != ready.pid


async def test_last_words_are_in_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path, "say", "sextant: the model file is missing", "exit", "78") as watched:
        dead = await watched.until(lambda c: c.state == "waiting")
    assert dead.reason == "exit status 78: the model file is missing"
    assert dead.exit_code == 78


async def test_waits_grow_between_deaths(tmp_path: Path) -> None:
    async with running(tmp_path, "exit", "1") as watched:
        await watched.until(lambda c: c.restarts == 4)
    assert [c.restarts for c in watched.seen if c.state == "waiting"][:4] == [0, 1, 2, 3]


async def test_a_hung_process_is_unwell_then_killed_and_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, hang_timeout_s=0.5) as watched:
        ready = await watched.until(lambda c: c.state == "ready")
        os.kill(ready.pid, signal.SIGSTOP)
        unwell = await watched.until(lambda c: c.state == "unwell")
        assert "no answer" in unwell.reason
        waiting = await watched.until(lambda c: c.state == "waiting")
        assert "hung" in waiting.reason
        await watched.until(lambda c: c.state == "ready" and c.restarts == 1)
        assert not alive(ready.pid)


async def test_an_overloaded_process_is_unwell_and_not_killed(tmp_path: Path) -> None:
    async with running(tmp_path, "busy", hang_timeout_s=0.2) as watched:
        ready = await watched.until(lambda c: c.state == "ready")
        unwell = await watched.until(lambda c: c.state == "unwell")
        assert "503" in unwell.reason
        await asyncio.sleep(0.5)  # longer than a hang may last
        assert watched.child.condition == unwell
        assert alive(ready.pid)


async def test_one_whose_work_stands_still_is_killed_though_its_health_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path, "lazy", work_interval_s=0.05) as watched:
        ready = await watched.until(lambda c: c.state == "ready")
        waiting = await watched.until(lambda c: c.state == "waiting")
        assert "its work stands still" in waiting.reason
        await watched.until(lambda c: c.state == "ready" and c.restarts == 1)
        assert not alive(ready.pid)


async def test_a_process_that_never_answers_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, "deaf", ready_timeout_s=0.5) as watched:
        waiting = await watched.until(lambda c: c.state == "waiting")
    assert "not ready within 0.5 s" in waiting.reason
    assert waiting.exit_code is None
    assert not any(c.state == "ready" for c in watched.seen)


async def test_a_stubborn_process_is_killed_after_its_time(tmp_path: Path) -> None:
    async with running(tmp_path, "stubborn", stop_timeout_s=0.2) as watched:
        ready = await watched.until(lambda c: c.state == "ready")
    assert not alive(ready.pid)


async def test_what_a_dead_process_had_started_dies_too(tmp_path: Path) -> None:
    async with running(tmp_path, "child") as watched:
        ready = await watched.until(lambda c: c.state == "ready")
        grandchild = int(watched.log.read_text().split()[1])
        assert alive(grandchild)
        os.kill(ready.pid, signal.SIGKILL)
        await watched.until(lambda c: c.state == "waiting")
        assert not alive(grandchild) or await _gone(grandchild)


async def _gone(pid: int) -> bool:
    async with asyncio.timeout(5):
        while alive(pid):
            await asyncio.sleep(0.01)
    return True


async def test_a_program_that_does_not_exist_is_no_exception(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    program = Program(
        name="none", argv=("/does/not/exist",), log_file=tmp_path / "x.log", probe=watched.child.program.probe
    )
    watched.child.program = program
    task = asyncio.create_task(watched.child.run())
    waiting = await watched.until(lambda c: c.state == "waiting")
    assert "cannot be started" in waiting.reason
    watched.child.stop()
    await task


async def test_a_large_log_is_set_aside_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES_MAX", 1000)
    log = tmp_path / "fake.log"
    log.write_bytes(b"x" * 1001)
    async with running(tmp_path) as watched:
        await watched.until(lambda c: c.state == "ready")
    assert (tmp_path / "fake.log.1").read_bytes() == b"x" * 1001
    assert log.stat().st_size == 0


def test_a_log_is_trimmed_under_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES_MAX", 10)
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"0123456789")
        trim_log(log)
        assert not (tmp_path / "a.log.1").exists()
        writer.write(b"+\n")
        trim_log(log)
        writer.write(b"new\n")
    assert (tmp_path / "a.log.1").read_bytes() == b"0123456789+\n"
    assert (tmp_path / "a.log.1").stat().st_mode & 0o077 == 0
    assert log.read_bytes() == b"new\n"
    assert last_words(log, 12) == "new"
    trim_log(tmp_path / "none.log")
    assert not (tmp_path / "none.log").exists()


@pytest.mark.slow
async def test_a_leaking_process_is_drained_and_started_again(tmp_path: Path) -> None:
    busy = [True, True, False]
    seen: list[Condition] = []
    program = Program(
        name="leaky",
        argv=(sys.executable, "-c", "import time; held = b'x' * 200_000_000; time.sleep(60)"),
        log_file=tmp_path / "leaky.log",
        probe=nothing_wrong,
        memory_interval_s=0.05,
        memory_max_bytes=120_000_000,
        idle=lambda: not_busy(busy),
    )
    child = Child(program, lambda one: seen.append(one.condition))
    running = asyncio.ensure_future(child.run())
    async with asyncio.timeout(20):
        while child.condition.restarts < 1 or child.condition.state != "ready":
            await asyncio.sleep(0.02)
    child.stop()
    await running
    unwell = next(condition for condition in seen if condition.state == "unwell")
    assert unwell.reason.startswith("it leaks memory: 0.")
    after = seen[seen.index(unwell) + 1]
    assert after.state == "waiting"  # never ready again while it drains
    assert busy == []
    assert next(one.reason for one in seen if one.state == "waiting") == unwell.reason


@pytest.mark.slow
async def test_a_leaking_process_that_dies_while_it_drains_is_noticed(tmp_path: Path) -> None:
    program = Program(
        name="leaky",
        argv=(sys.executable, "-c", "import time; held = b'x' * 200_000_000; time.sleep(1.5)"),
        log_file=tmp_path / "leaky.log",
        probe=nothing_wrong,
        stop_timeout_s=60.0,
        memory_interval_s=0.05,
        memory_max_bytes=120_000_000,
        idle=lambda: not_busy([True]),
    )
    child = Child(program, lambda one: None)
    running = asyncio.ensure_future(child.run())
    async with asyncio.timeout(20):
        while child.condition.restarts < 1:
            await asyncio.sleep(0.02)
        child.stop()  # which ends the next drain as well
        await running


async def test_an_argument_that_no_program_can_be_given_is_a_reason(tmp_path: Path) -> None:
    program = Program(name="nul", argv=("true", "a\0b"), log_file=tmp_path / "nul.log", probe=nothing_wrong)
    child = Child(program, lambda one: None)
    running = asyncio.ensure_future(child.run())
    async with asyncio.timeout(10):
        while child.condition.state != "waiting":
            await asyncio.sleep(0.01)
    assert "cannot be started: embedded null byte" in child.condition.reason
    child.stop()
    await running


async def nothing_wrong() -> None:
    """A probe that is always content."""


async def not_busy(busy: list[bool]) -> bool:
    return not (busy.pop(0) if busy else False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("noise\nsextant: engine answers on X\nGGML_ASSERT failed\n", "GGML_ASSERT failed"),
        ("sextant: engine answers on X\n", ""),
        ("sextant: no model\n{json}\n", "no model"),
        ("a\x1b[31mb\x00c\n\n", "a [31mb c"),
        ("x" * 1000, "x" * 300),
        ('{"time":"t","level":"info","message":"request"}\n', ""),
        (
            '{"time":"t","level":"error","message":"no ledger"}\n',
            '{"time":"t","level":"error","message":"no ledger"}',
        ),
        (
            "Traceback (most recent call last):\n"
            "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB\n"
            "ERROR Engine core failed\n"
            "RuntimeError: Engine core initialization failed. See root cause above.\n"
            "[rank0]: done\n",
            "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB",
        ),
        (
            "RuntimeError: Engine core initialization failed.\nbye\n",
            "RuntimeError: Engine core initialization failed.",
        ),
        (
            "WARNING 11-22 Found ulimit, which could cause OSError: [Errno 24] Too many open files\n"
            "ValueError: no such quantisation\n",
            "ValueError: no such quantisation",
        ),
        (
            "llama_model_load: error loading model: missing tensor 'blk.0'\n"
            "sextant: llama.cpp could not load m.gguf; the lines above say why\n",
            "llama.cpp could not load m.gguf: error loading model: missing tensor 'blk.0'",
        ),
    ],
)
def test_last_words(tmp_path: Path, text: str, expected: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"an older life\n{text}")
    assert last_words(log, len("an older life\n")) == expected
