"""The package as a whole: importing does nothing, nothing lies dead, help stays light."""

from __future__ import annotations

import ast
import collections
import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
FILES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((SOURCE / "sextant").rglob("*.py"))
    if "migrations" not in file.parts
}
TEXTS = {name: file.read_text(encoding="utf-8") for name, file in FILES.items()}
ELSEWHERE = "\n".join(
    file.read_text(encoding="utf-8")
    for pattern in (
        "Makefile",
        "benchmarks/bench.mk",
        "docs/generate.py",
        "docs/guides/*.md",
        "benchmarks/**/*.py",
    )
    for file in ROOT.glob(pattern)
)

UNUSED_ALLOWED: dict[str, str] = {
    "sextant.transport.asgi": "serves in-process tests and embedding; no process of ours runs it",
    "AsgiTwin": "as its file",
    "list_models": "registered by its decorator",
}
"""What nothing in the package uses, and why it stays. An entry that is no longer needed fails."""

IMPORTED_AS = {
    "argon2-cffi": "argon2",
    "google-re2": "re2",
    "protobuf": "google",
    "python-pkcs11": "pkcs11",
    "pyyaml": "yaml",
}
"""Distributions whose import name is another."""

COMES_WITH = {"fastapi": "starlette", "pkcs11": "asn1crypto", "pydantic": "pydantic_core"}
"""What a declared distribution brings along as part of its own interface."""

CLI_LIGHT = (
    "torch",
    "transformers",
    "fastapi",
    "uvicorn",
    "pydantic",
    "xllamacpp",
    "sqlalchemy",
    "apsw",
    "uvloop",
)
"""What asking for help must not load."""
CLI_STARTS = 20
"""Importing the command may take so many times a bare start of Python: 10 at present."""

PROBE = """
import importlib, json, os, sys, threading

def open_files():
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass
    return sorted(link for link in links if not link.endswith("/fd"))

before, started = open_files(), []
watched = {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn",
           "os.mkdir", "os.remove", "os.rename"}
sys.addaudithook(lambda event, args: started.append(event) if event in watched else None)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
left = [link for link in open_files() if link not in before]
print(json.dumps(
    {"started": started, "threads": threading.active_count(), "files": os.listdir("."), "fds": left}))
"""


def probe(names: list[str], folder: Path) -> dict[str, object]:
    """What importing the modules did, in a fresh interpreter and an empty folder."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", PROBE, json.dumps(names)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_importing_does_nothing(tmp_path: Path) -> None:
    names = [
        name for name in FILES if not name.startswith("sextant.workshop") and not name.endswith("__main__")
    ]
    assert probe(names, tmp_path) == {"started": [], "threads": 1, "files": [], "fds": []}


def test_the_probe_sees_what_an_import_does(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import os, threading, time\nos.mkdir('made')\nkept = open('left.txt', 'w')\n"
        "threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n"
    )
    done = probe(["busy"], tmp_path)
    assert done["started"] == ["os.mkdir"]
    assert done["threads"] == 2
    assert {"made", "left.txt"} <= set(map(str, done["files"]))  # type: ignore[call-overload]
    assert "left.txt" in str(done["fds"])


def test_asking_for_help_loads_nothing_heavy() -> None:
    script = f"import sys, sextant.cli.main; print([name for name in {CLI_LIGHT!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_verb_loads_nothing_heavy_that_it_does_not_use() -> None:
    script = (
        "import atexit, sys, sextant.cli.main as cli; sys.argv = ['sextant', 'version']; "
        f"atexit.register(lambda: print([name for name in {CLI_LIGHT!r} if name in sys.modules])); cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["[]"]


@pytest.mark.timing
def test_the_command_starts_quickly() -> None:
    def best_s(script: str) -> float:
        def once() -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", script], check=True)
            return time.perf_counter() - started

        return min(once() for _ in range(5))

    ratio = best_s("import sextant.cli.main") / best_s("pass")
    assert ratio <= CLI_STARTS, f"{ratio:.0f} times a bare start"


def dead_files(texts: dict[str, str], entries: str) -> list[str]:
    """Modules that nothing imports and nothing starts."""
    dead = []
    for name in texts:
        package, _, last = name.rpartition(".")
        if not package or any(other.startswith(f"{name}.") for other in texts) or last == "__main__":
            continue
        uses = re.compile(
            rf"\b{re.escape(name)}\b|from {re.escape(package)} import (?:[^\n(]*|\([^)]*)\b{last}\b"
            rf"|from \.? ?import (?:[^\n(]*|\([^)]*)\b{last}\b|from \.{last} import"
        )
        others = "\n".join(text for other, text in texts.items() if other != name)
        if not uses.search(others) and not uses.search(entries):
            dead.append(name)
    return dead


def unused_names(texts: dict[str, str], elsewhere: str) -> list[str]:
    """Public names of modules that occur nowhere but in their own definition."""
    words = collections.Counter(re.findall(r"\w+", "\n".join(texts.values()) + elsewhere))
    found = []
    for name, text in texts.items():
        for node in ast.parse(text).body:
            for public in defined(node):
                if not public.startswith("_") and words[public] < 2:
                    found.append(f"{name}.{public}")
    return found


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement at module level defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def foreign_imports(text: str) -> set[str]:
    """The top-level packages that a module imports, but for the standard library and our own."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names} - {"sextant"}


def declared(*requirements: str) -> set[str]:
    """The import names of what pyproject.toml asks for."""
    names = {re.split(r"[<>=!~\[; ]", requirement)[0].lower() for requirement in requirements}
    imported = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}
    return imported | {COMES_WITH[name] for name in imported & COMES_WITH.keys()}


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = declared(*project["dependencies"])
    extras = {
        "sextant.workshop": declared(*project["optional-dependencies"]["workshop"]),
        "sextant.privacy.presidio": declared(*project["optional-dependencies"]["presidio"]),
        "sextant.security": declared(*project["optional-dependencies"]["hsm"]),
        "sextant.cli.hsm": declared(*project["optional-dependencies"]["hsm"]),
        "sextant.operations.verify": declared(*project["optional-dependencies"]["verify"]),
    }
    undeclared = {
        f"{name}: {package}"
        for name, text in TEXTS.items()
        for package in foreign_imports(text) - base
        if not any(name.startswith(owner) and package in extra for owner, extra in extras.items())
    }
    assert undeclared == set()


def test_imports_are_seen() -> None:
    text = "import os, numpy.linalg\nfrom yaml import nodes\nfrom sextant import base\nfrom . import other"
    assert foreign_imports(text) == {"numpy", "yaml"}
    assert declared("PyYAML>=6", "prometheus-client", "litellm[proxy]>=1") == {
        "yaml",
        "prometheus_client",
        "litellm",
    }


def entries() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return "\n".join([*project["scripts"].values(), ELSEWHERE])


def test_no_dead_files() -> None:
    assert [name for name in dead_files(TEXTS, entries()) if name not in UNUSED_ALLOWED] == []


def test_no_unused_public_names() -> None:
    unused = unused_names(TEXTS, entries())
    assert [name for name in unused if name.rpartition(".")[2] not in UNUSED_ALLOWED] == []


def test_allowances_are_needed() -> None:
    flagged = set(dead_files(TEXTS, entries())) | {
        name.rpartition(".")[2] for name in unused_names(TEXTS, entries())
    }
    assert [name for name in UNUSED_ALLOWED if name not in flagged] == []


def test_the_searches_find_what_is_dead() -> None:
    texts = {
        "sextant": "",
        "sextant.a": "from sextant import b\nprint(b.used)",
        "sextant.b": "def used(): ...\ndef never(): ...\nLIMIT = 3",
        "sextant.c": "import sextant.a",
    }
    assert dead_files(texts, "") == ["sextant.c"]
    assert dead_files(texts, "python -m sextant.c") == []
    assert unused_names(texts, "") == ["sextant.b.never", "sextant.b.LIMIT"]


def test_environment_variables_are_documented() -> None:
    from sextant.base.config import VARIABLES

    named = set(re.findall(r"\"(SEXTANT_[A-Z_]+)\"", "\n".join(TEXTS.values())))
    assert named <= set(VARIABLES)
