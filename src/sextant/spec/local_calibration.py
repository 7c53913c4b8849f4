"""What one live endpoint was measured to take: the nouns of `sextant plan --calibrate`, and their file.

Fitted by `planner/local_speed.py` to points that `operations/measure.py` took; `--calibration FILE` reads it
back. It speaks for one model on one machine, and for nothing else. All times are in seconds unless named.
"""

from __future__ import annotations

import tomllib

import msgspec

from sextant.base.errors import Misconfigured

VERSION = 1


class LocalPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One measured load: `concurrency` callers that each ask `rounds` times, one answer after the other. They
    begin apart, spread over the time of one answer. Times are medians over all answers."""

    concurrency: int
    rounds: int
    input_tokens: int
    output_tokens: int
    ttft_ms: float
    tpot_ms: float


class LocalCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a request takes of that engine. A step of `b` requests that hold `n` tokens in all takes
    `step_s + (b - 1) * step_s_per_request + n * step_s_per_token`; a prompt of `n` tokens
    `n * prompt_s_per_token + n * n * prompt_s_per_token2`, and steps stand still meanwhile."""

    version: int
    model: str
    """Id in the catalogue."""
    accelerator: str
    """Id in the catalogue of what stands for the machine."""
    precision: str
    measured: str
    """Where and when, in words."""
    request_s: float
    """HTTP, tokenizer and all else of a request that keeps no other waiting."""
    prompt_s_per_token: float
    prompt_s_per_token2: float
    step_s: float
    step_s_per_request: float
    step_s_per_token: float
    held_tokens: int
    """Tokens that are written before the first text is seen; llama.cpp's first token has none."""
    slots: int
    """Requests that are answered at once; others wait."""
    batch_tokens: int
    """Most tokens of one step, prompts included."""
    band: float
    """The largest factor by which a prediction missed a point that the fit had not seen."""
    points: tuple[LocalPoint, ...]


def read_calibration(text: str, name: str) -> LocalCalibration:
    """The calibration in that TOML. Raises Misconfigured naming the field that is wrong."""
    again = "make it anew with `sextant plan --calibrate URL -o FILE`"
    try:
        found = msgspec.convert(tomllib.loads(text), LocalCalibration)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{name}: not valid TOML: {error}; {again}") from None
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{name}: no calibration of a machine: {error}; {again}") from None
    if found.version != VERSION:
        raise Misconfigured(f"{name}: version is {found.version}; expected {VERSION}; {again}")
    for field in found.__struct_fields__:
        number = getattr(found, field)
        if isinstance(number, int | float) and not 0 <= number < float("inf"):
            raise Misconfigured(f"{name}: {field} is {number}; expected a number of 0 or more; {again}")
    if not (found.step_s and found.slots and found.batch_tokens and found.band >= 1):
        raise Misconfigured(
            f"{name}: step_s, slots and batch_tokens are above 0 and band is 1 or more; {again}"
        )
    return found


def calibration_text(found: LocalCalibration) -> str:
    """The same as TOML."""
    lines = [
        "# What one endpoint was measured to take, for `sextant plan --calibration`. Seconds unless named."
    ]
    for field in found.__struct_fields__:
        value = getattr(found, field)
        if field != "points":
            lines.append(f"{field} = {_quoted(value) if isinstance(value, str) else repr(value)}")
    for point in found.points:
        lines += ["", "[[points]]"]
        lines += [f"{field} = {getattr(point, field)!r}" for field in point.__struct_fields__]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A basic string of TOML, which is written as JSON's are."""
    return msgspec.json.encode(text).decode()
