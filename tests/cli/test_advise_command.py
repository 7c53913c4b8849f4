"""`sextant advise` as people and programs call it: flags, a file, the questions on a terminal, JSON, -o."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from sextant.cli.advise import language_of
from sextant.spec.document import load_document
from stack_under_test import SEXTANT, sextant


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    return {**kept, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "100", **more}


def test_flags_to_an_answer() -> None:
    done = sextant("advise", "--data", "confidential", "--swing", "1.5", env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Advised: private cloud\n")
    for title in ("Why private cloud", "Why not the others", "Not said, so assumed", "What would change it"):
        assert f"\n{title}\n" in done.stdout


def test_json_for_programs() -> None:
    done = sextant("advise", "--profile", "manufacturing", "--lang", "zh", "--json", env=environment())
    told = json.loads(done.stdout)
    assert told["advised"] == "edge"
    assert told["language"] == "zh"
    assert told["ranking"][0]["mode"] == "edge"
    assert told["rules"][-1]["rule"] == "profile-manufacturing"
    assert told["effective"]["latency_ms"] == 200.0
    assert told["document"] is None
    assert "为什么选边缘" in told["text"]


MODES = [
    ("on-prem", ("--data", "restricted", "--team", "expert")),
    ("private-cloud", ("--data", "confidential")),
    ("hybrid", ("--data", "restricted", "--swing", "4")),
    ("edge", ("--latency-ms", "40", "--network", "none")),
    ("container", ("--releases", "daily")),
    ("saas", ("--monthly-usd", "500", "--requests-per-s", "0.5", "--input-tokens", "900")),
]


@pytest.mark.parametrize(("mode", "flags"), MODES)
def test_the_document_loads_and_says_which_mode(tmp_path: Path, mode: str, flags: tuple[str, ...]) -> None:
    file = tmp_path / "sextant.yaml"
    done = sextant("advise", *flags, "--json", "-o", str(file), env=environment())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["advised"] == mode
    document = load_document(file)
    text = file.read_text()
    assert text.startswith("# Made by `sextant advise`")
    assert document.spec.mode == mode
    if mode == "saas":
        assert document.spec.served[0].engine.kind == "remote"
        assert document.spec.workload.requests_per_s == 0.5


def test_a_document_is_never_written_over(tmp_path: Path) -> None:
    file = tmp_path / "sextant.yaml"
    file.write_text("mine")
    done = sextant("advise", "--swing", "2", "-o", str(file), env=environment())
    assert (done.returncode, file.read_text()) == (1, "mine")
    assert "is there already" in done.stderr
    away = sextant("advise", "--swing", "2", "-o", str(tmp_path / "no" / "x.yaml"), env=environment())
    assert "cannot be written" in away.stderr


def test_a_file_of_requirements_and_a_flag_over_it(tmp_path: Path) -> None:
    file = tmp_path / "needs.yaml"
    file.write_text("data: restricted\nupfront-usd: 600000\nswing: 1\nregulation: [mlps-3]\n")
    told = json.loads(sextant("advise", str(file), "--swing", "4", "--json", env=environment()).stdout)
    assert told["asked"]["data"] == "restricted"
    assert told["asked"]["upfront_usd"] == 600_000
    assert told["asked"]["swing"] == 4
    assert told["asked"]["regulation"] == ["mlps-3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("swnig: 2\n", "did you mean swing?"),
        ("- swing\n", "expected requirements as `name: value`"),
        ("swing: [\n", "not valid YAML"),
        ("swing: 1\nswing: 2\n", "the key is there twice"),
        ("x: " + "y" * 70_000, "holds more than 65536 bytes"),
        (b"swing: \xff\n", "is not UTF-8"),
        (None, "cannot be read: No such file or directory"),
    ],
    ids=["unknown", "list", "syntax", "twice", "long", "bytes", "absent"],
)
def test_a_wrong_file_is_answered(tmp_path: Path, text: str | bytes | None, said: str) -> None:
    file = tmp_path / "needs.yaml"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    done = sextant("advise", str(file), env=environment())
    assert done.returncode == 1
    assert said in done.stderr
    assert "needs.yaml" in done.stderr
    assert done.stdout == ""


def test_nothing_said_off_a_terminal() -> None:
    done = sextant("advise", env=environment())
    assert done.returncode == 1
    assert "questions are asked on a terminal only" in done.stderr


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({}, "en"),
    ],
)
def test_the_language_of_the_locale(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], language: str
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language_of(None) == language
    assert language_of("zh") == "zh"


def test_a_language_that_there_is_not() -> None:
    done = sextant("advise", "--swing", "2", "--lang", "fr", env=environment())
    assert done.returncode == 1
    assert "--lang fr: expected en or zh" in done.stderr


def converse(answers: list[str], *flags: str) -> tuple[int, str]:
    """Types `answers` into a terminal, one at each prompt; the status and all that was shown."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*SEXTANT, "advise", *flags], stdin=follower, stdout=follower, stderr=follower, env=environment()
    )
    os.close(follower)
    shown, waiting, deadline = "", list(answers), time.monotonic() + 60
    while time.monotonic() < deadline:
        ready, _, _ = select.select([leader], [], [], 1.0)
        if not ready:
            continue
        try:
            piece = os.read(leader, 65536).decode("utf-8", "replace")
        except OSError:  # the other end is closed: it has ended
            break
        shown += piece
        if waiting and shown.rstrip(" ").endswith("\n>"):
            os.write(leader, waiting.pop(0).encode())
    os.close(leader)
    assert waiting == [], shown
    return process.wait(10), shown.replace("\r", "")


def test_the_questions_on_a_terminal() -> None:
    answers = ["\n", "3\n", "\n", "gdrp\n", "pipl，2\n", "\n", "\n", "\n", "\n", "\n", "\n", "0\n", "2.5\n"]
    status, shown = converse([*answers, "\n", "expert\n", "\n"])
    assert status == 0, shown
    assert "did you mean gdpr?" in shown
    assert "swing is '0'; expected a number from 1" in shown
    line = "sextant advise --data confidential --regulation pipl --regulation gdpr --swing 2.5 --team expert"
    assert f"The same without questions:\n  {line}\n" in shown
    assert "\nAdvised: private cloud\n" in shown


def test_the_questions_in_chinese_and_left_with_control_c() -> None:
    status, shown = converse(["\x03"], "--lang", "zh")
    assert status != 0
    assert "行业" in shown
    assert "Traceback" not in shown
