"""The embedded engine's counted threads follow the cores of its process, also when some are taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec
import pytest

from sextant.engines import embedded_server
from sextant.engines.embedded import EmbeddedSettings

SETTINGS = EmbeddedSettings("m.gguf", "m", "127.0.0.1", 1, "key", 1024, 4, threads=2, threads_counted=True)
ASKED = msgspec.structs.replace(SETTINGS, threads_counted=False)
WAITS = """\
import signal, sys
import msgspec
from sextant.engines.embedded import EmbeddedSettings
from sextant.engines.embedded_server import serve_until_stopped

stop_signals = {signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
settings = msgspec.json.decode(sys.argv[1], type=EmbeddedSettings)
print("waits", flush=True)
sys.exit(0 if serve_until_stopped(settings, stop_signals, look_every_s=0.05) else 75)
"""


@pytest.fixture
def waiting() -> Callable[[EmbeddedSettings], subprocess.Popen[str]]:
    """Starts a process that waits as the engine does, on the cores of this one."""

    def start(settings: EmbeddedSettings) -> subprocess.Popen[str]:
        made = subprocess.Popen(
            [sys.executable, "-c", WAITS, msgspec.json.encode(settings).decode()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert made.stdout is not None
        assert made.stdout.readline() == "waits\n"
        return made

    return start


@pytest.mark.parametrize(("own", "threads"), [(1, 1), (2, 2), (7, 2)])
def test_counted_threads_are_cut_to_the_cores_of_the_engine(
    monkeypatch: pytest.MonkeyPatch, own: int, threads: int
) -> None:
    monkeypatch.setattr(embedded_server, "default_threads", lambda: own)
    assert embedded_server.fitted(SETTINGS).threads == threads
    assert embedded_server.fitted(ASKED) == ASKED


def test_an_engine_whose_cores_are_taken_away_ends_to_be_started_again(
    waiting: Callable[[EmbeddedSettings], subprocess.Popen[str]],
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core: none can be taken away")
    process = waiting(SETTINGS)
    os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    _, said = process.communicate(timeout=20)
    assert process.returncode == os.EX_TEMPFAIL
    assert "1 cores are left to the engine, which has 2 threads; it starts again with fewer" in said


def test_threads_that_were_asked_for_stay_whatever_the_cores(
    waiting: Callable[[EmbeddedSettings], subprocess.Popen[str]],
) -> None:
    process = waiting(ASKED)
    os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_an_engine_that_was_frozen_goes_on(
    waiting: Callable[[EmbeddedSettings], subprocess.Popen[str]],
) -> None:
    """As by a paused container: the wait is interrupted past its end, and no signal was sent."""
    process = waiting(ASKED)
    for _ in range(5):
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        time.sleep(0.2)  # four times the wait that it is frozen in
        process.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0
