"""Secrets by reference, and the environment that children get."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sextant.base.config import SECRET_BYTES, child_environment, resolve_secret, variable
from sextant.base.errors import Misconfigured


def secret_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    file = folder / "secret"
    file.write_bytes(content)
    file.chmod(mode)
    return file


def refusal(ref: str) -> str:
    with pytest.raises(Misconfigured) as raised:
        resolve_secret(ref)
    return raised.value.message


def test_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "sk-one")
    assert resolve_secret("env:ENGINE_KEY") == "sk-one"


def test_absent_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINE_KEY", raising=False)
    assert "ENGINE_KEY is not set" in refusal("env:ENGINE_KEY")


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_from_file(tmp_path: Path, end: bytes) -> None:
    assert resolve_secret(f"file:{secret_file(tmp_path, b'sk-two' + end)}") == "sk-two"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_private_modes(tmp_path: Path, mode: int) -> None:
    assert resolve_secret(f"file:{secret_file(tmp_path, b'sk-two', mode)}") == "sk-two"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660, 0o777])
def test_modes_that_others_may_use(tmp_path: Path, mode: int) -> None:
    file = secret_file(tmp_path, b"sk-two", mode)
    said = refusal(f"file:{file}")
    assert f"mode {mode:04o}" in said
    assert f"chmod 600 {file}" in said


def test_files_that_hold_no_secret(tmp_path: Path) -> None:
    assert "does not exist" in refusal(f"file:{tmp_path}/absent")
    assert "is a directory" in refusal(f"file:{tmp_path}")
    for content, said in (
        (b"\n", "is empty"),
        (b"one\ntwo", "control character"),
        (b"\xff\xfe", "not UTF-8"),
    ):
        assert said in refusal(f"file:{secret_file(tmp_path, content)}")
    assert "not a regular file" in refusal("file:/dev/null")
    assert "absolute path" in refusal("file:secret")


def test_secret_file_is_bounded(tmp_path: Path) -> None:
    assert len(resolve_secret(f"file:{secret_file(tmp_path, b'x' * SECRET_BYTES)}")) == SECRET_BYTES
    assert "larger than" in refusal(f"file:{secret_file(tmp_path, b'x' * (SECRET_BYTES + 1))}")


@pytest.mark.parametrize(
    "ref", ["sk-pasted-by-mistake", "env:", "env:not a name", "file:", "vault:sk-pasted-by"]
)
def test_malformed_reference_is_not_repeated(ref: str) -> None:
    said = refusal(ref)
    assert "env:NAME" in said
    assert "pasted" not in said


def test_children_inherit_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-three")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    environment = child_environment({"ENGINE_KEY": "sk-four"})
    assert "DEEPSEEK_API_KEY" not in environment
    assert environment["ENGINE_KEY"] == "sk-four"
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["PATH"] == os.environ["PATH"]


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEXTANT_STATE", "")
    assert variable("SEXTANT_STATE") is None
    monkeypatch.setenv("SEXTANT_STATE", "here")
    assert variable("SEXTANT_STATE") == "here"
