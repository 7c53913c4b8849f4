"""The chat template: one Jinja text, rendered here for training and by the engine for serving.

Turns: `<｜User｜>question<｜Assistant｜><think>reasoning</think>answer<｜end▁of▁sentence｜>`. The generation
prompt
opens `<think>`; with `enable_thinking=false` it also closes it. Reasoning of earlier turns is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"
CALLS, END_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, END_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
OUTPUT, END_OUTPUT = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"

CONTROL_TOKENS = (PAD, BOS, EOS, USER, ASSISTANT, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)
VISIBLE_TOKENS = (THINK, END_THINK, CALLS, END_CALLS, CALL, SEPARATOR, END_CALL, OUTPUT, END_OUTPUT)


def source() -> str:
    """The Jinja text as it is written into the GGUF and the tokenizer's folder."""
    return files("sextant.workshop.nano").joinpath("chat_template.jinja").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _compiled() -> Any:
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(source())


def render(
    messages: Sequence[dict[str, Any]], *, tools: Sequence[dict[str, Any]] = (), thinking: bool = True
) -> str:
    """The prompt for the next assistant turn."""
    return str(
        _compiled().render(
            messages=list(messages),
            tools=list(tools) or None,
            bos_token=BOS,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
    )


def completion(*, thinking: str | None, content: str, tool_calls: Sequence[dict[str, Any]] = ()) -> str:
    """What the model writes after the prompt; `thinking` None when the prompt has already closed it."""
    out = "" if thinking is None else thinking + END_THINK
    out += content
    if tool_calls:
        out += CALLS
        for each in tool_calls:
            out += CALL + each["function"]["name"] + SEPARATOR + each["function"]["arguments"] + END_CALL
        out += END_CALLS
    return out + EOS
