"""The house style as rules: each takes a file's text and yields what breaks it. `test_style.py` applies them.

A rule is a pure function of text, so that `test_style.py` can also show each an example that it must refuse.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

FILE_LINES = 600
FUNCTION_LINES = 70
PARAMETERS = 5
TOLD_LINES = 5
"""A public function of so many lines or more needs a docstring."""

BANNED_NAMES = re.compile(r"(?:^|_)(?:utils?|helpers?|commons?|misc)\d*(?:_|$)|^manager\d+$")
UNITLESS = frozenset({"size", "rate", "timeout", "duration", "latency"})
CHECKING = re.compile(
    r"_?(raises|warns|fail|assert|check|expect|validate|verify|refus|must|until|soon|timeout|wait_for)"
)
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|opt/(?!sextant/)\w+)/")
"""But for the place where a rendered deployment installs the product."""
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|[\"']todo[.\"']")

Rule = Callable[[str], Iterator[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def file_length(text: str) -> Iterator[str]:
    """At most 600 lines a file."""
    lines = text.count("\n") + 1
    if lines > FILE_LINES:
        yield f"{lines} lines; at most {FILE_LINES}"


def module_docstring(text: str) -> Iterator[str]:
    """Every file says what it is."""
    if ast.get_docstring(ast.parse(text)) is None:
        yield "no module docstring"


def function_length(text: str) -> Iterator[str]:
    """At most 70 lines a function."""
    for function in _functions(text):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES:
            yield f"{function.name} has {lines} lines; at most {FUNCTION_LINES}"


def parameters(text: str) -> Iterator[str]:
    """At most five parameters; more want a dataclass."""
    for function in _functions(text):
        names = _parameters(function)
        if len(names) > PARAMETERS:
            yield f"{function.name} has {len(names)} parameters; at most {PARAMETERS}"


def public_docstrings(text: str) -> Iterator[str]:
    """A public function says what it means."""
    tree = ast.parse(text)
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
    for owner in owners:
        for node in owner.body:
            if not isinstance(node, Function) or node.name.startswith("_") or node.name == "main":
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            inherits = isinstance(owner, ast.ClassDef)
            if not inherits and lines >= TOLD_LINES and ast.get_docstring(node) is None:
                yield f"{node.name} has no docstring"


def names(text: str) -> Iterator[str]:
    """No utils, helpers, common or misc; units in the names of public functions' quantities."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | Function) and BANNED_NAMES.search(node.name.lower()):
            yield f"{node.name} says nothing"
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield from (
                f"{node.name}({name}) lacks its unit" for name in _quantities(node) if name in UNITLESS
            )


def environment(text: str) -> Iterator[str]:
    """Only base/config.py reads the environment."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv"):
            yield f"line {node.lineno} touches os.{node.attr}; only base/config.py may"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (f"imports os.{name.name}" for name in node.names if "env" in name.name)


def broad_except(text: str) -> Iterator[str]:
    """A broad except only where it re-raises or logs, or at an edge where the line says why."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler) or not _is_broad(node.type):
            continue
        raises = any(isinstance(inner, ast.Raise) or _logs(inner) for inner in ast.walk(node))
        reason = re.search(r"#(?: noqa: BLE001 -)? (?:\w+[ ,:]+){2,}", lines[node.lineno - 1])
        if not raises and not reason:
            yield f"line {node.lineno}: a broad except that neither raises, logs nor says why"


def machine_paths(text: str) -> Iterator[str]:
    """No path of one machine."""
    for number, line in enumerate(text.splitlines(), 1):
        if MACHINE_PATHS.search(line):
            yield f"line {number} names a path of one machine: {line.strip()[:60]}"


def unfinished(text: str) -> Iterator[str]:
    """Nothing marked as unfinished: it is done, or an issue."""
    for number, line in enumerate(text.splitlines(), 1):
        if UNFINISHED.search(line):
            yield f"line {number}: {line.strip()[:60]}"


def no_asserts(text: str) -> Iterator[str]:
    """A test that asserts nothing proves nothing."""
    functions = list(_functions(text))
    checks = {function.name for function in functions if _asserts(function, frozenset())}
    for function in functions:
        if function.name.startswith("test_") and not _asserts(function, frozenset(checks)):
            yield f"{function.name} asserts nothing"


def reasonless_skip(text: str) -> Iterator[str]:
    """A skip or an expected failure says why."""
    for node in ast.walk(ast.parse(text)):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr in ("skip", "skipif", "xfail", "importorskip"):
            said = [*(word.arg for word in node.keywords), *("text" for one in node.args if _is_text(one))]
            if called.attr != "importorskip" and "reason" not in said and "text" not in said:
                yield f"line {node.lineno}: {called.attr} without a reason"


CODE_RULES: tuple[Rule, ...] = (
    file_length,
    module_docstring,
    function_length,
    parameters,
    public_docstrings,
    names,
    environment,
    broad_except,
    machine_paths,
    unfinished,
)
BENCHMARK_RULES: tuple[Rule, ...] = (
    file_length,
    module_docstring,
    function_length,
    broad_except,
    machine_paths,
    unfinished,
)
TEST_RULES: tuple[Rule, ...] = (
    file_length,
    module_docstring,
    function_length,
    machine_paths,
    unfinished,
    no_asserts,
    reasonless_skip,
)


def _functions(text: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, Function))


def _arguments(function: Function) -> list[ast.arg]:
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [argument for argument in every if argument.arg not in ("self", "cls")]


def _parameters(function: Function) -> list[str]:
    return [argument.arg for argument in _arguments(function)]


def _quantities(function: Function) -> list[str]:
    """The parameters that may be numbers: all but those that are text."""
    return [one.arg for one in _arguments(function) if getattr(one.annotation, "id", "") != "str"]


def _is_broad(kind: ast.expr | None) -> bool:
    if isinstance(kind, ast.Tuple):
        return any(_is_broad(one) for one in kind.elts)
    return kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))


def _logs(node: ast.AST) -> bool:
    """Whether it writes the traceback to the log."""
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "exception"
    )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _asserts(function: Function, checks: frozenset[str]) -> bool:
    """Whether it asserts, expects an exception or an end in time, or calls what does (by name)."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in checks or CHECKING.match(called):
                return True
    return False
