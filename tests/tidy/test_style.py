"""Every file follows the house style, and every rule of it refuses something."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import rules

ROOT = Path(__file__).parents[2]
CODE = sorted([*(ROOT / "src").rglob("*.py"), ROOT / "docs/generate.py"])
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = sorted(
    file
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "benchmarks/**/*.md",
        "src/**/*.md",
        "Makefile",
        "pyproject.toml",
        ".ci/*",
    )
    for file in ROOT.glob(pattern)
)

EXEMPT: dict[tuple[str, str], str] = {
    ("src/sextant/base/config.py", "environment"): "the one reader of the environment",
    ("src/sextant/cli/apply.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/advise.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/balance.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/budget.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/follow.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/import_.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/key.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/plan.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/price.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/project.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/render.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/tenant.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/tier.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/token.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/usage.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/user.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/cli/up.py", "parameters"): "a verb's parameters are its flags",
    ("src/sextant/store/migrations/versions/0001_accounts.py", "public_docstrings"): "Alembic's own names",
    ("src/sextant/transport/exchange.py", "parameters"): "one object per request on the hot path",
    ("src/sextant/transport/server.py", "parameters"): "the one constructor of a server: all but two by name",
    ("tests/app/test_probe.py", "no_asserts"): "a probe that finds nothing wrong returns, or else raises",
    ("tests/tidy/rules.py", "unfinished"): "names what it looks for",
    ("tests/tidy/test_style.py", "unfinished"): "shows the rules what they must refuse",
    ("tests/tidy/test_style.py", "machine_paths"): "shows the rules what they must refuse",
}
"""Where a rule does not apply, and why. An entry that is no longer needed fails."""

BREAKS: dict[str, str] = {
    "file_length": "x = 1\n" * 601,
    "module_docstring": "x = 1",
    "function_length": "def f():\n" + "    x = 1\n" * 70,
    "parameters": "def f(a, b, c, d, *, e, f): ...",
    "public_docstrings": "def f():\n    a = 1\n    b = 2\n    c = 3\n    return a + b + c",
    "names": "def wait(timeout): ...",
    "environment": "import os\nx = os.environ['HOME']",
    "broad_except": "try:\n    f()\nexcept Exception:\n    pass",
    "machine_paths": "x = '/root/data'",
    "unfinished": "x = 1  # TODO: more",
    "no_asserts": "def test_nothing():\n    f()",
    "reasonless_skip": "@pytest.mark.skip()\ndef test_f(): ...",
}
KEEPS = '''
"""What it is."""
import os

class Gate:
    """A gate."""

    def __init__(self, limit_bytes: int, *, timeout_s: float = 1.0, a: str = "", b: int = 0, c: int = 0):
        self.limit_bytes = limit_bytes

def run(body):
    """What it means."""
    try:
        body()
    except Exception:
        log.exception("failed")
        raise
    except BaseException:  # noqa: BLE001 - the process edge: logged above
        return os.getpid()

def test_it():
    with pytest.raises(ValueError):
        run(None)
'''


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("rule", {*rules.CODE_RULES, *rules.TEST_RULES}, ids=lambda rule: rule.__name__)
def test_rule_bites(rule: rules.Rule) -> None:
    assert list(rule(BREAKS[rule.__name__]))
    assert list(rule(textwrap.dedent(KEEPS).lstrip())) == []


def test_more_that_rules_must_refuse() -> None:
    assert list(rules.names("class StringUtils: ...".replace("StringUtils", "string_utils")))
    assert list(rules.names("def http_helper(): ..."))
    assert list(rules.environment("from os import getenv"))
    assert list(rules.broad_except("try:\n    f()\nexcept (ValueError, Exception):\n    pass"))
    assert list(rules.broad_except("try:\n    f()\nexcept:\n    pass"))
    assert list(rules.unfinished('help="todo"'))


@pytest.mark.parametrize("rule", rules.CODE_RULES, ids=lambda rule: rule.__name__)
def test_code(rule: rules.Rule) -> None:
    assert broken(rule, CODE) == []


@pytest.mark.parametrize("rule", rules.BENCHMARK_RULES, ids=lambda rule: rule.__name__)
def test_benchmarks(rule: rules.Rule) -> None:
    assert broken(rule, BENCHMARKS) == []


@pytest.mark.parametrize("rule", rules.TEST_RULES, ids=lambda rule: rule.__name__)
def test_tests(rule: rules.Rule) -> None:
    assert broken(rule, TESTS) == []


@pytest.mark.parametrize("rule", [rules.machine_paths, rules.unfinished], ids=lambda rule: rule.__name__)
def test_texts(rule: rules.Rule) -> None:
    assert broken(rule, TEXTS) == []


def test_file_names_say_something() -> None:
    assert [name_of(file) for file in [*CODE, *TESTS] if rules.BANNED_NAMES.search(file.stem)] == []
    assert rules.BANNED_NAMES.search("http_utils")


def test_exemptions_are_needed() -> None:
    by_name = {rule.__name__: rule for rule in (*rules.CODE_RULES, *rules.TEST_RULES)}
    useless = [
        (file, rule)
        for file, rule in EXEMPT
        if not list(by_name[rule]((ROOT / file).read_text(encoding="utf-8")))
    ]
    assert useless == []


def broken(rule: rules.Rule, files: list[Path]) -> list[str]:
    """Where `rule` is broken, but for the exemptions."""
    return [
        f"{name_of(file)}: {finding}"
        for file in files
        if (name_of(file), rule.__name__) not in EXEMPT
        for finding in rule(file.read_text(encoding="utf-8"))
    ]
