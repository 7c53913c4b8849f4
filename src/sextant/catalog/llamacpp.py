"""llama.cpp's own server, on one machine: layers divided among its accelerators."""

from __future__ import annotations

from sextant.base.errors import Unsupported
from sextant.catalog.serving import Command, Serving, finished, given

SLOTS = 4
"""Requests decoded together where `max_sequences` does not say."""
LAYERS_ON_ACCELERATOR = 999
"""More than any model has: all of them."""


def command(serving: Serving) -> Command:
    """How that replica is started. Raises Unsupported for several machines, divided attention or experts, and
    a split of prefill from decode."""
    serving.one_machine()
    share = serving.share
    if share.attention_dp > 1 or share.ep > 1 or serving.role != "whole":
        raise Unsupported(
            f"llamacpp: the plan of {serving.model_name} divides attention, experts or prefill from decode, "
            f"which it does not do; use vllm or sglang"
        )
    slots = serving.max_sequences or SLOTS
    return finished(
        serving,
        Command(
            argv=(
                *(serving.command or serving.engine.command),
                *("--model", serving.model_path),
                *("--alias", serving.model_name),
                *("--host", serving.host),
                *("--port", str(serving.port)),
                *given("--ctx-size", serving.context_tokens * slots),
                *("--parallel", str(slots)),
                *_accelerators(serving),
                *("--reasoning-format", "deepseek"),
                "--jinja",
                "--metrics",
                "--no-slots",
                "--no-ui",
                "--no-context-shift",
                "--offline",
                *serving.args,
            )
        ),
    )


def _accelerators(serving: Serving) -> tuple[str, ...]:
    if serving.vendor == "cpu":
        return ()
    split = "row" if serving.share.tp > 1 else "layer"
    return ("--n-gpu-layers", str(LAYERS_ON_ACCELERATOR), "--split-mode", split)
