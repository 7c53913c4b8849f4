"""Where converted models lie: a GGUF file for each folder that was converted, named by what it held.

    MODELS/converted/NAME-PLACE-SEAL.gguf

PLACE says which folder it was, SEAL what was in it; a folder that changed is converted again, and what it was
converted to before goes. Neighbours: `placing.py` converts, `sextant model rm` forgets.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def conversion_of(folder: Path, models: Path) -> Path:
    """The file that `folder` is converted to, whether it is there or not. Raises OSError for a folder that
    cannot be read."""
    seal = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        status = file.stat()
        seal.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return _place(models) / f"{_prefix(folder)}{seal.hexdigest()[:16]}.gguf"


def forget_conversions(folder: Path, models: Path, *, but: Path | None = None) -> int:
    """Deletes what `folder` was ever converted to, `but` one file; how many bytes that were."""
    freed_bytes = 0
    place = _place(models)
    found = sorted(place.iterdir()) if place.is_dir() else []
    for file in found:
        if file.name.startswith(_prefix(folder)) and file != but:
            freed_bytes += file.stat().st_size
            file.unlink()
    return freed_bytes


def _place(models: Path) -> Path:
    return models / "converted"


def _prefix(folder: Path) -> str:
    place = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return f"{folder.name}-{place}-"
