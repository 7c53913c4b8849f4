"""The head of a GGUF file, good and bad."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sextant.base.errors import Misconfigured
from sextant.engines.gguf import read_model_file


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def head(*pairs: bytes, magic: bytes = b"GGUF", version: int = 3, count: int | None = None) -> bytes:
    return struct.pack("<4sIQQ", magic, version, 7, len(pairs) if count is None else count) + b"".join(pairs)


GOOD = (
    pair("general.architecture", 8, string("deepseek2")),
    pair("general.name", 8, string("tiny")),
    pair("deepseek2.context_length", 4, struct.pack("<I", 1024)),
    pair("deepseek2.block_count", 4, struct.pack("<I", 8)),
    pair("deepseek2.rope.freq_base", 6, struct.pack("<f", 1e4)),
    pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + string("a") + string("字") + string("")),
    pair("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 3) + struct.pack("<fff", 1, 2, 3)),
    pair("tokenizer.ggml.add_bos_token", 7, b"\x01"),
    pair("tokenizer.chat_template", 8, string("{{ messages }}")),
)
FIM = tuple(
    pair(f"tokenizer.ggml.fim_{part}_token_id", 4, struct.pack("<I", number))
    for number, part in enumerate(("pre", "suf", "mid"))
)


def test_reads_what_a_model_says(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(head(*GOOD) + b"tensors")
    found = read_model_file(path)
    assert (found.name, found.architecture, found.context_tokens, found.layers, found.vocabulary) == (
        "tiny",
        "deepseek2",
        1024,
        8,
        3,
    )
    assert found.chat_template == "{{ messages }}"
    assert found.bytes == path.stat().st_size
    assert found.fim_tokens is None


def test_fill_in_the_middle_needs_all_three_tokens(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(head(*GOOD, *FIM))
    assert read_model_file(path).fim_tokens == ("a", "字", "")
    path.write_bytes(head(*GOOD, *FIM[:2]))
    assert read_model_file(path).fim_tokens is None


def test_every_truncation_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    whole = head(*GOOD)
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(Misconfigured, match="not a readable GGUF file"):
            read_model_file(path)


@pytest.mark.parametrize(
    "data",
    [
        head(*GOOD, magic=b"GGML"),
        head(*GOOD, version=99),
        head(*GOOD, count=1 << 40),
        head(pair("x", 8, struct.pack("<Q", 1 << 50))),
        head(pair("x", 9, struct.pack("<IQ", 8, 1 << 50))),
        head(pair("x", 9, struct.pack("<IQ", 9, 2))),
        head(pair("x", 77, b"")),
        head(struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<I", 7) + b"\x01"),
    ],
)
def test_a_hostile_head_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(Misconfigured, match="not a readable GGUF file"):
        read_model_file(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read: No such file"):
        read_model_file(tmp_path / "none.gguf")
