"""Where fetched models lie, and who may write there.

    CACHE/hf/org/name/snapshots/COMMIT/…       whole files, each verified before it got its name
    CACHE/hf/org/name/partial/COMMIT/…         what is on its way, and the ETag that it came with
    CACHE/hf/org/name/fetched/KEY.json         what a name, revision, pattern and preference led to
    CACHE/hf/org/name/lock                     held by the process that fetches

A file under `snapshots` is whole and right; so a look at sizes is enough to know what is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from sextant.app.pull.hub import KINDS, ModelKind, RemoteFile
from sextant.app.pull.source import NamedSource
from sextant.app.state import write_private
from sextant.base.errors import Misconfigured, NotFound

LOCK_RETRY_S = 0.2


class Fetched(msgspec.Struct, frozen=True):
    """What a fetch left behind: enough to find it again without the hub."""

    source: NamedSource
    prefer: ModelKind
    kind: ModelKind
    snapshot: str
    entry: str
    files: tuple[RemoteFile, ...]


def folder_of(cache_dir: Path, source: NamedSource, snapshot: str) -> Path:
    """Where the files of this snapshot lie."""
    return _model_folder(cache_dir, source) / "snapshots" / snapshot


def partial_of(cache_dir: Path, source: NamedSource, snapshot: str) -> Path:
    """Where files of this snapshot lie while they are fetched."""
    return _model_folder(cache_dir, source) / "partial" / snapshot


def part_name(file: RemoteFile) -> str:
    """The name of `file` while it is fetched: made of its place and checksum, so that no two share one."""
    identity = f"{file.path}\n{file.size_bytes}\n{file.sha256 or file.git_sha1}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def is_whole(folder: Path, file: RemoteFile) -> bool:
    """Whether `file` is there, verified when it came."""
    try:
        return (folder / file.path).stat().st_size == file.size_bytes
    except OSError:
        return False


def missing_bytes(folder: Path, files: tuple[RemoteFile, ...]) -> int:
    """What is still to be fetched of `files`; `folder` is their snapshot's."""
    partial = folder.parent.parent / "partial" / folder.name
    return sum(
        max(file.size_bytes - _size_bytes(partial / part_name(file)), 0)
        for file in files
        if not is_whole(folder, file)
    )


def cached(source: NamedSource, cache_dir: Path, *, prefer: ModelKind = "gguf") -> Path | None:
    """What an engine is given for `source` when it was fetched before and is whole, else None. Touches no
    network: a newer revision on the hub is not looked for.

    What was fetched with another preference and came as this one's kind all the same counts too.
    """
    for kind in sorted(KINDS, key=lambda kind: kind != prefer):
        fetched = _recorded(cache_dir, source, kind)
        if fetched is None or prefer not in (fetched.prefer, fetched.kind):
            continue
        folder = folder_of(cache_dir, source, fetched.snapshot)
        if all(is_whole(folder, file) for file in fetched.files):
            return folder / fetched.entry if fetched.entry else folder
    return None


def remember(fetched: Fetched, cache_dir: Path) -> None:
    """Writes down, whole or not at all, that `fetched` is there."""
    record = _record(cache_dir, fetched.source, fetched.prefer)
    make_folder(record.parent)
    write_private(record, msgspec.json.encode(fetched))


def make_folder(folder: Path) -> None:
    """Makes `folder` and what is missing above it, each for its owner alone."""
    for missing in [part for part in (*reversed(folder.parents), folder) if not part.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)


def fetched_folders(source: NamedSource, cache_dir: Path) -> list[Path]:
    """The folders of all snapshots that were fetched of the repository of `source`."""
    snapshots = _model_folder(cache_dir, source) / "snapshots"
    return sorted(snapshots.iterdir()) if snapshots.is_dir() else []


def remove(source: NamedSource, cache_dir: Path) -> int:
    """Deletes all that was fetched of the repository of `source` and returns how many bytes that were. Raises
    NotFound when there is nothing, Misconfigured while a process fetches it."""
    folder = _model_folder(cache_dir, source)
    inside = [folder / name for name in ("fetched", "partial", "snapshots")]
    if not any(part.is_dir() for part in inside):
        raise NotFound(f"nothing of {source.hub}:{source.repo} was fetched into {cache_dir}", field="model")
    freed_bytes = sum(_size_bytes(file) for file in folder.rglob("*") if file.is_file())
    with locked(cache_dir, source, lambda pid: _refuse_to_wait(source, pid)):
        for part in inside:  # the lock stays: who waits for it holds the same file
            shutil.rmtree(part, ignore_errors=not part.exists())
    return freed_bytes


@contextlib.contextmanager
def locked(cache_dir: Path, source: NamedSource, on_wait: Callable[[int | None], None]) -> Iterator[None]:
    """Holds the model for this process. While another one has it, waits, having told its pid to `on_wait`.

    The wait ends with the other process, however that ends. Raises Misconfigured when the folder cannot be
    written.
    """
    path = _model_folder(cache_dir, source) / "lock"
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(
            f"models cannot be kept in {cache_dir}: {error.strerror or error} ({error.filename}); choose "
            f"another folder, or make this one writable"
        ) from None
    try:
        if not _taken(descriptor):
            on_wait(_pid_in(path))
            while not _taken(descriptor):
                time.sleep(LOCK_RETRY_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _model_folder(cache_dir: Path, source: NamedSource) -> Path:
    return cache_dir.absolute() / source.hub / source.repo


def _refuse_to_wait(source: NamedSource, pid: int | None) -> None:
    raise Misconfigured(f"{source.hub}:{source.repo} is being fetched (process {pid}); end that first")


def _recorded(cache_dir: Path, source: NamedSource, prefer: ModelKind) -> Fetched | None:
    try:
        found = msgspec.json.decode(_record(cache_dir, source, prefer).read_bytes(), type=Fetched)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.source == source else None


def _record(cache_dir: Path, source: NamedSource, prefer: ModelKind) -> Path:
    key = hashlib.sha256(f"{source} {prefer}".encode()).hexdigest()[:32]
    return _model_folder(cache_dir, source) / "fetched" / f"{key}.json"


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None
