"""Snapshots: written whole by the supervisor, swapped whole by the gateway."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sextant.app.routes import RouteBook, Verdict
from sextant.app.snapshots import SnapshotFile
from sextant.base.errors import Misconfigured
from sextant.spec.snapshot import RouteTable, ServedModel, Upstream

MODEL = ServedModel(
    "m", "embedded", (Upstream("m-0", "http://127.0.0.1:1/v1"), Upstream("m-1", "http://127.0.0.1:2/v1"))
)


def read(path: Path) -> RouteTable:
    return msgspec.json.decode(path.read_bytes(), type=RouteTable)


def test_readiness_reaches_the_file_and_the_version_grows(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    book = RouteBook(path, (MODEL,))
    book.publish()
    first = read(path)
    assert [upstream.ready for upstream in first.models[0].upstreams] == [False, False]
    book.set({"m-0": Verdict(ready=True), "m-1": Verdict(ready=False, reason="it hung")})
    second = read(path)
    assert second.version > first.version
    assert [(u.ready, u.reason) for u in second.models[0].upstreams] == [(True, ""), (False, "it hung")]
    book.set({"m-0": Verdict(ready=True), "m-1": Verdict(ready=False, reason="it hung")})
    assert read(path).version == second.version  # nothing changed, nothing written
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_could_not_be_written_is_written_at_the_next_chance(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    path.mkdir()  # a rename onto a directory fails, as every write does on a full disk
    book = RouteBook(path, (MODEL,))
    ready = {"m-0": Verdict(ready=True)}
    with pytest.raises(OSError, match="directory"):
        book.set(ready)
    path.rmdir()
    book.set(ready)
    assert read(path).models[0].upstreams[0].ready
    assert list(tmp_path.iterdir()) == [path]


def test_a_later_start_has_a_later_version(tmp_path: Path) -> None:
    book = RouteBook(tmp_path / "routes.json", (MODEL,))
    book.publish()
    again = RouteBook(tmp_path / "routes.json", (MODEL,))
    again.publish()
    assert again.table().version >= book.table().version


def test_poll_swaps_new_versions_only(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    swapped: list[RouteTable] = []
    path.write_bytes(msgspec.json.encode(RouteTable(1)))
    file = SnapshotFile(str(path), RouteTable, swapped.append)
    assert file.load().version == 1
    file.poll()
    assert swapped == []
    replace(path, RouteTable(2, (MODEL,)))
    file.poll()
    file.poll()
    assert [table.version for table in swapped] == [2]


@pytest.mark.parametrize("bad", [b"", b"{", b'{"version": "two"}', b'{"version": 3, "surprise": 1}'])
def test_a_bad_file_changes_nothing_and_a_good_one_heals(
    tmp_path: Path, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "routes.json"
    swapped: list[RouteTable] = []
    path.write_bytes(msgspec.json.encode(RouteTable(1)))
    file = SnapshotFile(str(path), RouteTable, swapped.append)
    file.load()
    path.write_bytes(bad)
    file.poll()
    file.poll()
    assert swapped == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]  # once, not at every poll
    replace(path, RouteTable(4))
    file.poll()
    assert [table.version for table in swapped] == [4]


def test_a_missing_file_at_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        SnapshotFile(str(tmp_path / "none"), RouteTable, lambda table: None).load()


def replace(path: Path, table: RouteTable) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(table))
    temporary.replace(path)


def test_a_swap_that_fails_leaves_the_last_one_in_use_and_the_polling_alive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "routes.json"
    taken: list[int] = []

    def swap(table: RouteTable) -> None:
        if table.version == 2:
            raise UnicodeError("a secret that no header can hold")
        taken.append(table.version)

    path.write_bytes(msgspec.json.encode(RouteTable(1)))
    file = SnapshotFile(str(path), RouteTable, swap)
    file.load()
    for version in (2, 3):
        (tmp_path / "new").write_bytes(msgspec.json.encode(RouteTable(version)))
        (tmp_path / "new").replace(path)
        file.poll()
        file.poll()
    assert taken == [3]
    assert caplog.text.count("could not be taken, the last one stays") == 1
