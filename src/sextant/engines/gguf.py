"""The head of a GGUF file: what a model says about itself, read without loading it.

The supervisor takes the trained context length and the fill-in-the-middle tokens from here; `sextant model
show` prints the rest. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 2 and 3).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from sextant.base.errors import Misconfigured

KEYS_MAX = 4096
STRING_BYTES_MAX = 16 * 1024 * 1024
ARRAY_ITEMS_MAX = 4_000_000

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class ModelFile(msgspec.Struct, frozen=True):
    """What a GGUF file says about its model. `context_tokens` is 0 where the file does not say."""

    path: str
    bytes: int
    name: str
    architecture: str
    context_tokens: int
    layers: int
    vocabulary: int
    chat_template: str
    fim_tokens: tuple[str, str, str] | None
    """The texts of the tokens before the prefix, the suffix and the middle; None where it has none."""
    license: str
    modified_s: int = 0
    """When the file was written, in Unix seconds."""


def read_model_file(path: Path) -> ModelFile:
    """Reads the head of `path`. Raises Misconfigured when it is missing, unreadable or no GGUF file."""
    try:
        with path.open("rb") as file:
            meta = _metadata(file)
            stat = path.stat()
    except OSError as error:
        raise Misconfigured(f"the model file {path} cannot be read: {error.strerror}") from None
    except (struct.error, ValueError, KeyError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not a readable GGUF file ({error}); copy it again") from None
    arch = str(meta.get("general.architecture", ""))
    return ModelFile(
        path=str(path),
        bytes=stat.st_size,
        name=str(meta.get("general.name", path.stem)),
        architecture=arch,
        context_tokens=int(meta.get(f"{arch}.context_length", 0)),
        layers=int(meta.get(f"{arch}.block_count", 0)),
        vocabulary=len(meta.get("tokenizer.ggml.tokens", ())),
        chat_template=str(meta.get("tokenizer.chat_template", "")),
        fim_tokens=_fim_tokens(meta),
        license=str(meta.get("general.license", "")),
        modified_s=int(stat.st_mtime),
    )


def _fim_tokens(meta: dict[str, Any]) -> tuple[str, str, str] | None:
    tokens = meta.get("tokenizer.ggml.tokens", ())
    ids = [meta.get(f"tokenizer.ggml.fim_{part}_token_id", -1) for part in ("pre", "suf", "mid")]
    if not all(isinstance(number, int) and 0 <= number < len(tokens) for number in ids):
        return None
    return tokens[ids[0]], tokens[ids[1]], tokens[ids[2]]


def _metadata(file: BinaryIO) -> dict[str, Any]:
    """All key-value pairs; an array of numbers is represented by its length."""
    magic, version, _tensors, count = struct.unpack("<4sIQQ", _exactly(file, 24))
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(f"it starts with {magic!r}, version {version}")
    if count > KEYS_MAX:
        raise ValueError(f"it announces {count} keys")
    found: dict[str, Any] = {}
    for _ in range(count):
        key = _string(file)
        (kind,) = struct.unpack("<I", _exactly(file, 4))
        found[key] = _value(file, kind)
    return found


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        form = "<" + _SCALARS[kind]
        return struct.unpack(form, _exactly(file, struct.calcsize(form)))[0]
    inner, length = struct.unpack("<IQ", _exactly(file, 12))
    if length > ARRAY_ITEMS_MAX:
        raise ValueError(f"it announces an array of {length} items")
    if inner in _SCALARS:
        file.seek(length * struct.calcsize("<" + _SCALARS[inner]), 1)
        return length
    if inner != _STRING:
        raise ValueError(f"it holds an array of kind {inner}")
    return [_string(file) for _ in range(length)]


def _string(file: BinaryIO) -> str:
    return _exactly(file, _string_length(file)).decode()


def _string_length(file: BinaryIO) -> int:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    if length > STRING_BYTES_MAX:
        raise ValueError(f"it announces a string of {length} bytes")
    return int(length)


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError("it ends too early")
    return data
