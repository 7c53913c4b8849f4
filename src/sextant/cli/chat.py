"""`sextant chat`: a streaming chat in the terminal, thinking dimmed; also one question from an argument or a
pipe.

The conversation loop and its /commands. Neighbour: `chat_stream.py` (the HTTP side).
"""

from __future__ import annotations

import sys
import time
import unicodedata
from pathlib import Path
from typing import Annotated, Any

import typer

from sextant.base.errors import Misconfigured, SextantError
from sextant.cli.options import State, state_dir

KEY_VARIABLE = "SEXTANT_API_KEY"
HELP = """\
  /new              forget the conversation
  /system TEXT      set the system prompt and begin anew; without TEXT, remove it
  /model NAME       ask another model
  /think on|off     let the model think first, or not
  /save FILE        write the conversation as JSON
  /help             this list
  /exit             leave (also Ctrl-D)
  A line that ends in \\ goes on in the next. Ctrl-C stops an answer."""


def chat(
    question: Annotated[
        str | None, typer.Argument(help="Ask this one question and leave; without it, a conversation.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to ask.", show_default="the first one served")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    url: Annotated[
        str | None, typer.Option(help="API root of another deployment.", show_default="the local one")
    ] = None,
    state: State = None,
) -> None:
    """Talk to the model.

    Reads one question from standard input when that is no terminal, and prints the answer alone.
    The key is taken from SEXTANT_API_KEY, or from the state directory.
    """
    from sextant.cli.chat_stream import ChatApi

    root, key = _address(url, state)
    api = ChatApi(root, key, ours=url is None)
    talk = Conversation(api, model or api.first_model(), system)
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read().strip()
        if not question:
            raise Misconfigured("standard input holds no question")
    if question is not None:
        talk.ask(question, plain=not sys.stdout.isatty())
        return
    talk.run()


def _address(url: str | None, state: Path | None) -> tuple[str, str]:
    """(API root, key). Raises SextantError when there is none."""
    from sextant.base.config import resolve_secret, variable
    from sextant.cli.admin import not_running
    from sextant.control.settings import read_status

    folder = state_dir(state)
    key = variable(KEY_VARIABLE)
    if url is None:
        status = read_status(folder.status_file)
        if folder.holder() is None or status is None:
            raise not_running(folder)
        url = f"{status.url}/v1"
        key = key or resolve_secret(f"file:{folder.cli_key}")
    if key is None:
        raise Misconfigured(f"--url needs a key for that deployment: set {KEY_VARIABLE}")
    return url.rstrip("/"), key


class Conversation:
    """What has been said, and how it goes on."""

    def __init__(self, api: Any, model: str, system: str | None) -> None:
        self._api = api
        self._model = model
        self._system = system
        self._thinking: bool | None = None
        self._said: list[dict[str, str]] = []
        self._colour = sys.stdout.isatty()

    def run(self) -> None:
        """The loop: until /exit or end of input."""
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - line editing and history for input()

        self._note(f"{self._model} at {self._api.url}. /help lists the commands, Ctrl-D leaves.")
        while True:
            try:
                line = self._read()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                self._note("Ctrl-D or /exit leaves.")
                continue
            if line.startswith("/"):
                if not self._command(line):
                    return
            elif line.strip():
                try:
                    self.ask(line)
                except SextantError as error:
                    self._said.pop()
                    self._complain(error.message)

    def ask(self, question: str, *, plain: bool = False) -> None:
        """One question, its answer streamed to standard output. Raises SextantError; Ctrl-C ends the answer.

        `plain` writes the answer alone, for a pipe; thinking is then left out.
        """
        self._said.append({"role": "user", "content": question})
        messages = [*([{"role": "system", "content": self._system}] if self._system else []), *self._said]
        show = _Shown(thinking=not plain, colour=self._colour)
        began = time.monotonic()
        usage: dict[str, Any] = {}
        stopped = False
        try:
            for piece in self._api.stream(self._model, messages, thinking=self._thinking):
                show.piece(piece)
                usage = piece.usage or usage
        except KeyboardInterrupt:
            if plain:
                raise
            stopped = True
        finally:
            show.end()
        self._said.append({"role": "assistant", "content": show.answer})
        if plain:
            return
        took_s = time.monotonic() - began
        tokens = usage.get("completion_tokens", show.pieces)
        ended = "stopped" if stopped else "cut at its length limit" if show.finish == "length" else ""
        self._note(f"{tokens} tokens, {took_s:.1f} s{f', {ended}' if ended else ''}")

    def _read(self) -> str:
        # The colour codes are marked as zero-width, or line editing miscounts the prompt.
        prompt, more = ("\x01\x1b[1;36m\x02›\x01\x1b[0m\x02 ", "… ") if self._colour else ("> ", "… ")
        lines = [input(prompt)]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input(more))
        return "\n".join(lines)

    def _command(self, line: str) -> bool:
        """Obeys a /command; False ends the conversation."""
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        match word:
            case "/exit" | "/quit" | "/bye":
                return False
            case "/help":
                print(HELP)
            case "/new" | "/clear":
                self._said.clear()
                self._note("A new conversation.")
            case "/system":
                self._system = rest or None
                self._said.clear()
                self._note(
                    "A new conversation, with that system prompt." if rest else "No system prompt now."
                )
            case "/model":
                self._switch(rest)
            case "/think" if rest in ("on", "off"):
                self._thinking = rest == "on"
                self._note(f"Thinking is {rest}.")
            case "/save" if rest:
                self._save(Path(rest).expanduser())
            case _:
                self._complain(f"{line.strip()} is no command; /help lists them")
        return True

    def _switch(self, name: str) -> None:
        try:
            known = self._api.models()
        except SextantError as error:
            self._complain(error.message)
            return
        if name in known:
            self._model = name
            self._note(f"Asking {name} from now on.")
        else:
            self._complain(f"{name or 'nothing'} is not served here; there is {', '.join(known)}")

    def _save(self, path: Path) -> None:
        import json

        data = {"model": self._model, "system": self._system, "messages": self._said}
        try:
            path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            self._complain(f"{path} cannot be written: {error.strerror}")
        else:
            self._note(f"Written to {path}.")

    def _note(self, text: str) -> None:
        print(f"\x1b[2m{text}\x1b[0m" if self._colour else text)

    def _complain(self, text: str) -> None:
        print(f"\x1b[31m{text}\x1b[0m" if self._colour else text, file=sys.stderr)


class _Shown:
    """Writes an answer as it comes: thinking dimmed, then the answer."""

    def __init__(self, *, thinking: bool, colour: bool) -> None:
        self.answer = ""
        self.finish = ""
        self.pieces = 0
        self._with_thinking = thinking
        self._colour = colour
        self._in_thought = False
        self._column_zero = True

    def piece(self, piece: Any) -> None:
        self.finish = piece.finish or self.finish
        if piece.thought or piece.text:
            self.pieces += 1
        if piece.thought and self._with_thinking:
            if not self._in_thought:
                self._in_thought = True
                self._write("\x1b[2m" if self._colour else "[thinking] ")
            self._write(printable(piece.thought))
        if piece.text:
            text = piece.text
            if self._in_thought:
                self._end_thought()
                text = text.lstrip("\n")
            self.answer += piece.text
            self._write(printable(text))
        sys.stdout.flush()

    def end(self) -> None:
        if self._in_thought:
            self._end_thought()
        if not self._column_zero:
            self._write("\n")
        sys.stdout.flush()

    def _end_thought(self) -> None:
        self._in_thought = False
        if self._colour:
            sys.stdout.write("\x1b[0m")
        if not self._column_zero:
            self._write("\n")
        self._write("" if self._colour else "[answer] ")

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            self._column_zero = text.endswith("\n")


def printable(text: str) -> str:
    """`text` without control characters: a model's output must not drive the terminal."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs"))
