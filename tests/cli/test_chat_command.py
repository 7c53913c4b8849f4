"""`sextant chat`: in a pipe, from an argument, and in a real terminal."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.fake_chat_api import FakeChatApi, delta, fake_chat_api
from stack_under_test import SEXTANT

DONE = b"data: [DONE]\n\n"
ANSWER = [
    delta(role="assistant", content=""),
    delta(reasoning_content="hm, "),
    delta(reasoning_content="yes"),
    delta(content="\n\nForty"),
    delta(content=" two"),
    delta("stop"),
    {"choices": [], "usage": {"completion_tokens": 7}},
    DONE,
]


@pytest.fixture
def api() -> Iterator[FakeChatApi]:
    with fake_chat_api() as made:
        made.script = list(ANSWER)
        yield made


def run(api: FakeChatApi, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SEXTANT, "chat", "--url", api.url, *arguments],
        input=given, capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, "SEXTANT_API_KEY": "sk-test"},
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [("What?",), ()])
def test_a_pipe_gets_the_answer_alone(api: FakeChatApi, arguments: tuple[str, ...]) -> None:
    done = run(api, "--system", "Be brief.", *arguments, given="" if arguments else "What?\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n\nForty two\n", "")
    assert api.requests[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What?"},
    ]
    assert api.requests[0]["model"] == "m"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([delta(content="a")], "cut off before its end"),
        ([delta(content="a"), {"error": {"message": "the engine died"}}], "the engine died"),
        ([b"data: {oops\n\n"], "not what a chat API sends"),
        ([b"data: [1]\n\n"], "not what a chat API sends"),
        ([b"<html>"], "cut off before its end"),
    ],
)
def test_a_broken_answer_is_an_error(api: FakeChatApi, script: list[Any], said: str) -> None:
    api.script = script
    done = run(api, "What?")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_apis_own_words_are_told(api: FakeChatApi) -> None:
    api.status = 429
    done = run(api, "What?")
    assert (done.returncode, done.stderr) == (1, "error: no such thing\n")


def test_a_model_cannot_drive_the_terminal(api: FakeChatApi) -> None:
    api.script = [delta(content="a\x1b]0;owned\x07b\u009b2J\tc\r\nd"), DONE]
    assert run(api, "What?").stdout == "a]0;ownedb2J\tc\nd\n"


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, api: FakeChatApi, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*SEXTANT, "chat", "--url", api.url], stdin=slave, stdout=slave, stderr=slave,
            env={**os.environ, "SEXTANT_API_KEY": "sk-test", "TERM": "xterm", **environment},
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self, pattern: str) -> None:
        """Ctrl-C at the prompt until `pattern` shows: Python notices one that comes just as input() begins to
        wait only with the next."""
        for _ in range(10):
            os.killpg(self.process.pid, signal.SIGINT)
            try:
                self.expect(pattern, timeout_s=1.0)
                return
            except AssertionError:
                continue
        self.expect(pattern)

    def expect(self, pattern: str, timeout_s: float = 15.0) -> str:
        """Reads until `pattern` shows; returns and forgets everything up to its end."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.shown, re.DOTALL)):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], (
                f"no {pattern!r} in {self.shown!r}"
            )
            self.shown += self._decoder.decode(os.read(self.master, 65536))
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(api: FakeChatApi) -> Iterator[Terminal]:
    made = Terminal(api)
    try:
        made.expect("›")
        yield made
    finally:
        made.close()


def test_thinking_is_dimmed_and_the_answer_is_not(terminal: Terminal) -> None:
    terminal.type("What?\n")
    shown = terminal.expect(r"7 tokens, \d+\.\d s")
    assert "\x1b[2mhm, yes\x1b[0m\r\nForty two\r\n" in shown


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Terminal, api: FakeChatApi) -> None:
    never = threading.Event()
    api.script = [delta(content="one"), never]
    terminal.type("Count.\n")
    terminal.expect("one")
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.expect("stopped")
    assert api.left.wait(5)  # the connection was closed, so the engine's work ends too
    api.script = list(ANSWER)
    terminal.type("Go on.\n")
    terminal.expect("Forty two")
    assert [message["content"] for message in api.requests[1]["messages"]] == ["Count.", "one", "Go on."]
    terminal.expect("7 tokens.*›")
    terminal.interrupt("Ctrl-D or /exit leaves.*›")
    terminal.type("\x04")
    assert terminal.process.wait(5) == 0


def test_a_closed_terminal_ends_it_without_a_crash_report(api: FakeChatApi, tmp_path: Path) -> None:
    made = Terminal(api, TMPDIR=str(tmp_path))
    try:
        made.expect("›")
        os.close(made.master)
        assert made.process.wait(10) != 0
        assert list(tmp_path.iterdir()) == []
    finally:
        made.master = os.open(os.devnull, os.O_RDONLY)
        made.close()


def test_an_error_does_not_end_the_conversation(terminal: Terminal, api: FakeChatApi) -> None:
    api.status = 503
    terminal.type("What?\n")
    terminal.expect("no such thing")
    api.status = 200
    terminal.type("Again?\n")
    terminal.expect("Forty two")
    assert [message["content"] for message in api.requests[1]["messages"]] == ["Again?"]


def test_commands(terminal: Terminal, api: FakeChatApi, tmp_path: Any) -> None:
    terminal.type("/help\n")
    terminal.expect("/think on|off")
    terminal.type("/frob\n")
    terminal.expect("/frob is no command")
    terminal.type("/model none\n")
    terminal.expect("none is not served here; there is m, other")
    terminal.type("/model other\n")
    terminal.expect("Asking other")
    terminal.type("/think off\n")
    terminal.expect("Thinking is off")
    terminal.type("/system Be brief.\n")
    terminal.expect("with that system prompt")
    terminal.type("one \\\ntwo\n")
    terminal.expect("Forty two")
    request = api.requests[0]
    assert request["model"] == "other"
    assert request["thinking"] == {"type": "disabled"}
    assert [message["content"] for message in request["messages"]] == ["Be brief.", "one \ntwo"]
    terminal.type(f"/save {tmp_path}/talk.json\n")
    terminal.expect("Written to")
    assert "Forty two" in (tmp_path / "talk.json").read_text()
    terminal.type(f"/save {tmp_path}/no/where.json\n")
    terminal.expect("cannot be written")
    terminal.type("/new\n")
    terminal.expect("A new conversation")
    terminal.type("/exit\n")
    assert terminal.process.wait(5) == 0
