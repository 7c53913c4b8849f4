"""The metrics of several processes that share a port, answered whole by whichever is asked.

Each worker writes its own exposition to a file now and then; whoever is asked adds those of the others to its
own. Every sample gets the label `worker`, so nothing is added up that must not be, and a counter that starts
anew with its process is seen as such. The others' samples are up to `WRITE_INTERVAL_S` old.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from sextant.telemetry.table import Registry

WRITE_INTERVAL_S = 2.0
STALE_S = 10.0
"""A file not written for so long is of a worker that is gone: it is left out."""


class WorkerRegistry(Registry):
    """The registry of one of several workers. `folder` is where all of them write."""

    def __init__(self, folder: Path, worker: str) -> None:
        super().__init__()
        self._folder = folder
        self._worker = worker

    def write(self) -> None:
        """Shows the others what is counted here. Raises OSError."""
        path = self._folder / f"metrics-{self._worker}.prom"
        temporary = path.with_name(f".{path.name}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(super().exposition())
        temporary.replace(path)

    def exposition(self) -> bytes:
        """The Prometheus text format 0.0.4 of all workers together."""
        texts = {self._worker: super().exposition().decode()}
        for path in sorted(self._folder.glob("metrics-*.prom")):
            worker = path.stem.removeprefix("metrics-")
            if worker not in texts and path.stat().st_mtime > time.time() - STALE_S:
                texts[worker] = path.read_text()
        return merged(texts).encode()


def merged(texts: dict[str, str]) -> str:
    """Expositions by worker as one: each metric's lines together, each sample with its worker."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, text in sorted(texts.items()):
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                if name != family:
                    family = name
                    known = family in heads
                    samples.setdefault(family, [])
                if not known:
                    heads.setdefault(family, []).append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, worker))
    return "".join(f"{line}\n" for family in samples for line in (*heads.get(family, ()), *samples[family]))


def _labelled(sample: str, worker: str) -> str:
    """A sample line with one label more."""
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:  # not a brace in the value of a label
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
