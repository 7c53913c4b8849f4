"""Backups of the two databases, and the way back.

A backup is a folder: a copy of each database and `manifest.json` with versions, sizes and SHA-256. It is made
of running databases too: the ledger first, so that everything a row of it names is in the accounts copied
after it. It stands under its name only when it is whole and on the disk.

Restoring sets what is there aside (moved, not deleted) and puts the copies in its place. The two moves cannot
be one, so a marker stands beside the databases meanwhile; with it nothing starts, and the same command run
again ends what was begun.
Neighbours: `upgrade.py` decides when, `cli/db.py` is how people call it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import time
from pathlib import Path

import apsw
import msgspec

from sextant import __version__
from sextant.base.errors import Misconfigured, SextantError

MANIFEST = "manifest.json"
DUMP = "sextant.pgdump"
"""The copy of a PostgreSQL store; one of files has each database under its own name."""
FORMAT = 1
SPARE_BYTES = 16 * 1024 * 1024
"""Free space that a copy must leave."""
_COMPANIONS = ("", "-wal", "-shm", "-journal")
_READ_BYTES = 1024 * 1024


class Schemas(msgspec.Struct, frozen=True):
    """Schema versions: the accounts' revision and the ledger's number; "" and 0 where there is nothing."""

    accounts: str
    ledger: int


class Databases(msgspec.Struct, frozen=True):
    """Where the databases of one deployment are."""

    root: Path
    """The state directory, which commands name."""
    accounts: Path
    ledger: Path
    url: str = ""
    """PostgreSQL with its password, where both are kept there instead; never shown."""

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    @property
    def restore_marker(self) -> Path:
        return self.root / "restore-under-way"


class BackedUpFile(msgspec.Struct, frozen=True):
    name: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds. `made_for` is "person", "migration" or "restore"; times are Unix milliseconds."""

    format: int
    made_ms: int
    made_for: str
    program: str
    schemas: Schemas
    files: tuple[BackedUpFile, ...]


def make_backup(databases: Databases, schemas: Schemas, *, made_for: str, into: Path | None = None) -> Path:
    """Copies both databases into a new folder (mode 0700) below `into`, or the state directory's `backups/`,
    and returns it. Raises SextantError when there is not enough room or a copy fails: then no folder is
    left."""
    made_ms = time.time_ns() // 1_000_000
    parent = into or databases.backups
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not databases.url:
            _check_room(databases, parent)
        partial = parent / f".{os.getpid()}-{made_ms}.partial"
        partial.mkdir(mode=0o700)
        try:
            files = _copies(databases, partial)
            manifest = Manifest(FORMAT, made_ms, made_for, __version__, schemas, tuple(files))
            _write_durably(partial / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
            _sync_directory(partial)
            folder = _free_name(parent, made_ms)
            partial.rename(folder)
            _sync_directory(parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except (OSError, apsw.Error) as error:
        raise SextantError(f"no backup could be made in {parent}: {error}; nothing was changed") from error
    return folder


def list_backups(databases: Databases) -> list[tuple[Path, Manifest]]:
    """The whole backups of the state directory, oldest first."""
    found = []
    with contextlib.suppress(OSError):
        for folder in databases.backups.iterdir():
            with contextlib.suppress(SextantError):
                found.append((folder, read_manifest(folder)))
    return sorted(found, key=lambda item: item[1].made_ms)


def prune_backups(databases: Databases, keep: int) -> None:
    """Removes the oldest backups that migrations made, down to `keep`."""
    automatic = [path for path, manifest in list_backups(databases) if manifest.made_for == "migration"]
    for folder in automatic[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)


def read_manifest(folder: Path) -> Manifest:
    """Raises Misconfigured when `folder` is no backup, or one of a later format."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(
            f"{folder} is no backup ({error}); name a folder that `sextant db backup` made, with its "
            f"{MANIFEST}"
        ) from None
    if manifest.format > FORMAT:
        raise Misconfigured(
            f"{folder} is a backup of format {manifest.format}, this program reads {FORMAT}: restore it with "
            f"the Sextant that made it ({manifest.program}) or a newer one"
        )
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Raises Misconfigured when a file of the backup is missing or is not what was written."""
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            raise Misconfigured(f"the backup {folder} lacks {file.name}; use another backup")
        if path.stat().st_size != file.bytes or _sha256(path) != file.sha256:
            raise Misconfigured(
                f"{path} is not what was backed up (its SHA-256 is not that of {MANIFEST}); use another"
            )


def restore_backup(databases: Databases, folder: Path) -> Path | None:
    """Puts a verified backup in the place of both databases, and returns the folder to which what was there
    has been moved (None: there was nothing). Call with the state directory's lock held. A restore that was
    cut off is ended by another call. Raises SextantError; what it set aside is never deleted."""
    manifest = read_manifest(folder)
    verify(folder, manifest)
    if databases.url:
        return _restore_postgres(databases, folder, manifest)
    if any(file.name == DUMP for file in manifest.files):
        raise Misconfigured(f"{folder} is of a PostgreSQL store, and this deployment keeps files")
    marker, targets = databases.restore_marker, (databases.accounts, databases.ledger)
    try:
        fresh = [_staged(folder, target, manifest) for target in targets]
        aside = _aside(databases)
        _write_durably(marker, f"{folder}\n{aside}\n".encode())
        _sync_directory(databases.root)
        moved = _set_aside(targets, aside)
        for target, staged in zip(targets, fresh, strict=True):
            if staged is not None:
                staged.rename(target)
        _sync_directory(databases.root)
        marker.unlink()
        _sync_directory(databases.root)
    except OSError as error:
        raise SextantError(
            f"the restore of {folder} was cut off: {error}; run it again: "
            f"sextant db restore --state {shlex.quote(str(databases.root))} {shlex.quote(str(folder))}"
        ) from error
    return aside if moved else None


def refuse_half_restored(databases: Databases) -> None:
    """Raises Misconfigured when a restore was cut off: the databases may be of two different moments."""
    with contextlib.suppress(FileNotFoundError):
        folder = databases.restore_marker.read_text().partition("\n")[0]
        raise Misconfigured(
            f"a restore of {folder} did not end; run it again: sextant db restore --state "
            f"{shlex.quote(str(databases.root))} {shlex.quote(folder)}"
        )


def _copies(databases: Databases, folder: Path) -> list[BackedUpFile]:
    if databases.url:
        from sextant.store import upgrade_postgres

        file = upgrade_postgres.dump(databases.url, folder)
        upgrade_postgres.check_dump(file)
        _sync(file)
        return [BackedUpFile(file.name, file.stat().st_size, _sha256(file))]
    sources = (databases.ledger, databases.accounts)
    return [_copied(source, folder) for source in sources if source.exists()]


def _restore_postgres(databases: Databases, folder: Path, manifest: Manifest) -> Path:
    """Restores in one transaction; what is there is first backed up like any other state."""
    from sextant.store import upgrade_postgres

    if all(file.name != DUMP for file in manifest.files):
        raise Misconfigured(f"{folder} is of files, and this deployment keeps its books in PostgreSQL")
    present = Schemas(*upgrade_postgres.found_versions(databases.url))
    aside = make_backup(databases, present, made_for="restore")
    upgrade_postgres.restore(databases.url, folder / DUMP)
    return aside


def _copied(source: Path, folder: Path) -> BackedUpFile:
    """One database as of one moment, whatever is written to it meanwhile; checked, and on the disk."""
    target = folder / source.name
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    # Not read-only: a journal that a killed writer left must be rolled back before the file can be read.
    original = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        original.set_busy_timeout(10_000)
        copy = apsw.Connection(str(target))
        try:
            with copy.backup("main", original, "main") as backup:
                while not backup.done:
                    backup.step(-1)
            copy.pragma("journal_mode", "delete")  # one file, with no companions
            if (found := copy.execute("PRAGMA quick_check(1)").get) != "ok":
                raise SextantError(f"{source} is damaged ({found}); see `sextant db check`")
        finally:
            copy.close()
    finally:
        original.close()
    _sync(target)
    return BackedUpFile(target.name, target.stat().st_size, _sha256(target))


def _check_room(databases: Databases, parent: Path) -> None:
    sources = (databases.accounts, databases.ledger)
    wanted = sum(
        file.stat().st_size
        for source in sources
        for end in _COMPANIONS
        if (file := source.with_name(source.name + end)).exists()
    )
    free = shutil.disk_usage(parent).free
    if free < wanted + SPARE_BYTES:
        raise SextantError(
            f"a backup needs {(wanted + SPARE_BYTES) >> 20} MiB in {parent}, and {free >> 20} MiB are free: "
            "make room, or name another folder: sextant db backup --to DIR"
        )


def _staged(folder: Path, target: Path, manifest: Manifest) -> Path | None:
    """The backup's copy beside `target`, on the disk; None when the backup has no such database."""
    if all(file.name != target.name for file in manifest.files):
        return None
    staged = target.with_name(f".{target.name}.restored")
    with contextlib.suppress(FileNotFoundError):
        staged.unlink()
    shutil.copyfile(folder / target.name, staged)
    staged.chmod(0o600)
    _sync(staged)
    return staged


def _aside(databases: Databases) -> Path:
    """Where what is there goes: the folder that a restore cut off has begun, or a new one."""
    databases.backups.mkdir(mode=0o700, exist_ok=True)
    folder = databases.backups / f"set-aside-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
    with contextlib.suppress(FileNotFoundError, IndexError):
        folder = Path(databases.restore_marker.read_text().splitlines()[1])
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _set_aside(targets: tuple[Path, ...], aside: Path) -> bool:
    """Moves the databases with their journals to `aside`. What is there already is from the first try: then
    the file in the way is a copy that this same restore had put in place."""
    moved = any(aside.iterdir())
    for target in targets:
        # The log first: a database without it is whole but old; a log alone would be another's.
        for end in reversed(_COMPANIONS):
            path = target.with_name(target.name + end)
            if path.exists() and not (aside / target.name).exists():
                path.rename(aside / path.name)
                moved = True
            elif path.exists():
                path.unlink()
    if not moved:
        aside.rmdir()
    return moved


def _free_name(parent: Path, made_ms: int) -> Path:
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(made_ms / 1000))
    for number in range(1000):
        folder = parent / (f"{name}-{number}" if number else name)
        if not folder.exists():
            return folder
    raise SextantError(f"{parent} holds a thousand backups of one second; remove some")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256", _bufsize=_READ_BYTES).hexdigest()


def _write_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
