"""Rows of another gateway's database: a SQLite file, a dump by pg_dump or mysqldump, or JSON by table.

Nothing is ever written there: SQLite is opened read-only. Only the tables asked for are read, each within a
bound, so that years of request logs in the same file cost nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sextant.base.errors import BadDocument

ROWS_MAX = 1_000_000
"""In all tables together."""
LINE_BYTES = 64 * 1024 * 1024
"""mysqldump writes many rows a line; its largest default is 16 MiB."""
JSON_BYTES = 256 * 1024 * 1024
LOCKED_S = 5.0

Row = dict[str, Any]
Tables = dict[str, list[Row]]

_COPY = re.compile(r'^COPY (?:[\w"]+\.)?"?(\w+)"? \((.*)\) FROM stdin;$')
_CREATE = re.compile(r"^CREATE TABLE (?:IF NOT EXISTS )?`(\w+)`")
_COLUMN = re.compile(r"^\s+`(\w+)`")
_INSERT = re.compile(r"^INSERT (?:IGNORE )?INTO `(\w+)`\s*(?:\(([^)]*)\)\s*)?VALUES\s*")
_VALUE = re.compile(
    r"\s*(?:(?P<null>NULL)|(?:_binary )?'(?P<text>(?:[^'\\]|\\.|'')*)'|(?P<number>-?\d[\d.eE+-]*))"
    r"\s*(?P<end>[,)])",
    re.S,
)
_MYSQL_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "Z": "\x1a"}
_COPY_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}


def read_tables(path: Path, wanted: frozenset[str]) -> Tables:
    """The rows of the wanted tables that the file has. Raises BadDocument when it is no database or dump."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise BadDocument(f"{path}: cannot be read: {error.strerror}") from None
    if start.startswith(b"SQLite format 3\0"):
        return _sqlite(path, wanted)
    if start.lstrip()[:1] in (b"{", b"["):
        return _json(path, wanted)
    if re.search(
        rb"PostgreSQL database dump|MySQL dump|MariaDB dump|CREATE TABLE|INSERT INTO|^COPY ", start, re.M
    ):
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            tables = _dump(file, path, wanted)
        if not tables:
            raise BadDocument(
                f"{path}: holds none of the tables {', '.join(sorted(wanted)[:6])} …; dump with mysqldump, "
                f"or with pg_dump as it does by itself (no --inserts)"
            )
        return tables
    raise BadDocument(
        f"{path}: is neither a SQLite file, a dump in plain text by pg_dump or mysqldump, nor JSON by table"
    )


def _sqlite(path: Path, wanted: frozenset[str]) -> Tables:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    tables: Tables = {}
    count = 0
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=LOCKED_S)) as db:
            db.row_factory = sqlite3.Row
            db.text_factory = lambda data: data.decode("utf-8", "replace")
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in sorted(wanted & set(names)):
                rows = tables.setdefault(name, [])
                for row in db.execute(f'SELECT * FROM "{name}"'):
                    count += 1
                    _check_count(count, path)
                    rows.append(dict(row))
    except sqlite3.Error as error:
        hint = ""
        if "locked" in str(error) or "busy" in str(error):
            hint = "; stop the program that writes it, or copy it with `sqlite3 FILE '.backup COPY'`"
        raise BadDocument(f"{path}: cannot be read as a SQLite database: {error}{hint}") from None
    return tables


def _json(path: Path, wanted: frozenset[str]) -> Tables:
    with path.open("rb") as file:
        data = file.read(JSON_BYTES + 1)
    if len(data) > JSON_BYTES:
        raise BadDocument(
            f"{path}: holds more than {JSON_BYTES} bytes of JSON; give a dump by pg_dump instead"
        )
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        raise BadDocument(f"{path}: is not valid JSON") from None
    expected = f'a mapping of tables to lists of rows, as {{"{min(wanted)}": [{{…}}]}}'
    if not isinstance(tree, dict):
        raise BadDocument(f"{path}: expected {expected}, found a list")
    tables: Tables = {}
    count = 0
    for name in sorted(wanted & tree.keys()):
        rows = tree[name] or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadDocument(f"{path}: {name}: expected {expected}")
        count += len(rows)
        _check_count(count, path)
        tables[name] = rows
    if not tables:
        raise BadDocument(
            f"{path}: holds none of the tables {', '.join(sorted(wanted))}; expected {expected}"
        )
    return tables


def _dump(file: IO[str], path: Path, wanted: frozenset[str]) -> Tables:
    """Rows of COPY blocks (pg_dump) and INSERT statements (mysqldump)."""
    tables: Tables = {}
    columns: dict[str, list[str]] = {}
    count = 0
    creating = copying = ""
    for line in _lines(file, path):
        if copying:
            if line == "\\.":
                copying = ""
                continue
            rows = [_copy_row(line, columns[copying])] if copying in wanted else []
        elif found := _COPY.match(line):
            copying = found.group(1)
            columns[copying] = [name.strip(' "') for name in found.group(2).split(",")]
            rows = []
        elif found := _INSERT.match(line):
            copying_name = found.group(1)
            named = [name.strip(" `") for name in found.group(2).split(",")] if found.group(2) else None
            rows = []
            if copying_name in wanted:
                rows = list(_insert_rows(line[found.end() :], named or columns.get(copying_name, []), path))
                tables.setdefault(copying_name, []).extend(rows)
                count += len(rows)
                _check_count(count, path)
            continue
        else:
            if found := _CREATE.match(line):
                creating = found.group(1)
                columns[creating] = []
            elif creating and (found := _COLUMN.match(line)):
                columns[creating].append(found.group(1))
            elif line.startswith(")"):
                creating = ""
            continue
        tables.setdefault(copying, []).extend(rows)
        count += len(rows)
        _check_count(count, path)
    return {name: rows for name, rows in tables.items() if name in wanted}


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    while line := file.readline(LINE_BYTES):
        if len(line) == LINE_BYTES and not line.endswith("\n"):
            raise BadDocument(f"{path}: a line is longer than {LINE_BYTES} characters; this is no dump")
        yield line.rstrip("\n").rstrip("\r")


def _copy_row(line: str, names: list[str]) -> Row:
    values = line.split("\t")
    if len(values) != len(names):
        raise BadDocument(
            f"a row of the dump has {len(values)} values for {len(names)} columns; it was cut off"
        )
    return {
        name: None if value == "\\N" else _unescaped(value, _COPY_ESCAPES)
        for name, value in zip(names, values, strict=True)
    }


def _insert_rows(text: str, names: list[str], path: Path) -> Iterator[Row]:
    place = 0
    while text[place : place + 1] == "(":
        place += 1
        values: list[Any] = []
        while True:
            found = _VALUE.match(text, place)
            if found is None:
                raise BadDocument(f"{path}: an INSERT statement cannot be read near its character {place}")
            place = found.end()
            values.append(_mysql_value(found))
            if found["end"] == ")":
                break
        if len(values) != len(names):
            raise BadDocument(
                f"{path}: a row has {len(values)} values for {len(names)} columns; dump with the tables' "
                f"definitions (mysqldump does by itself)"
            )
        yield dict(zip(names, values, strict=True))
        place += 1 if text[place : place + 1] == "," else 0


def _mysql_value(found: re.Match[str]) -> Any:
    if found["null"] is not None:
        return None
    if found["text"] is not None:
        return _unescaped(found["text"].replace("''", "'"), _MYSQL_ESCAPES)
    return found["number"]


def _unescaped(text: str, escapes: dict[str, str]) -> str:
    if "\\" not in text:
        return text
    return re.sub(r"\\(.)", lambda found: escapes.get(found.group(1), found.group(1)), text, flags=re.S)


def _check_count(count: int, path: Path) -> None:
    if count > ROWS_MAX:
        raise BadDocument(f"{path}: holds more than {ROWS_MAX} rows to import")
