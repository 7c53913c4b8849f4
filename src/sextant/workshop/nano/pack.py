"""Training texts as packed rows of tokens, made by worker processes while the accelerator trains.

A row holds whole texts only, one after another; the mask says which tokens the loss falls on: the
completion, and
the answers of earlier turns. Rows are (tokens uint16, mask uint8), both of length T + 1.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sextant.workshop.nano import template, tokens
from sextant.workshop.nano.curriculum import Sample, samples

if TYPE_CHECKING:
    import numpy
    from tokenizers import Tokenizer

OPEN_ROWS = 12
QUEUE_CHUNKS = 64
CHUNK_ROWS = 16


def encode(
    tokenizer: Tokenizer, batch: Sequence[Sample], *, earlier: bool = True
) -> list[tuple[list[int], list[int]]]:
    """Tokens and mask of each text; `earlier` marks the answers of earlier turns too."""
    prompts = tokenizer.encode_batch([s.prompt for s in batch], add_special_tokens=False)
    completions = tokenizer.encode_batch([s.completion for s in batch], add_special_tokens=False)
    marks = [tokens.marker_id(tokenizer, t) for t in (template.ASSISTANT, template.EOS, template.END_THINK)]
    out = []
    for prompt, completion in zip(prompts, completions, strict=True):
        before = earlier_answers(prompt.ids, marks) if earlier else [0] * len(prompt.ids)
        out.append((prompt.ids + completion.ids, before + [1] * len(completion.ids)))
    return out


def earlier_answers(ids: Sequence[int], marks: Sequence[int]) -> list[int]:
    """The mask of a prompt: 1 on the answers of finished turns, after their closed reasoning."""
    assistant, eos, end_think = marks
    mask = [0] * len(ids)
    start = None
    for i, token in enumerate(ids):
        if token == assistant:
            start = -1
        elif token == end_think and start == -1:
            start = i + 1
        elif token == eos and start is not None and start > 0:
            mask[start : i + 1] = [1] * (i + 1 - start)
            start = None
    return mask


def rows(
    folder: Path, seed: str, length: int, weights: Sequence[float]
) -> Iterator[tuple[list[int], list[int]]]:
    """Packed rows of `length` tokens without end; a text that is longer is left out."""
    tokenizer = tokens.load(folder)
    pad = tokens.marker_id(tokenizer, template.PAD)
    stream = samples(seed, weights)
    open_rows: list[tuple[list[int], list[int]]] = [([], []) for _ in range(OPEN_ROWS)]
    while True:
        for ids, mask in encode(tokenizer, list(islice(stream, 64))):
            if len(ids) > length:
                continue
            fitting = next((r for r in open_rows if len(r[0]) + len(ids) <= length), None)
            if fitting is None:
                fullest = max(range(OPEN_ROWS), key=lambda i: len(open_rows[i][0]))
                done_ids, done_mask = open_rows[fullest]
                gap = length - len(done_ids)
                yield done_ids + [pad] * gap, done_mask + [0] * gap
                fitting = open_rows[fullest] = ([], [])
            fitting[0].extend(ids)
            fitting[1].extend(mask)


def _work(folder: Path, seed: str, length: int, weights: Any, queue: Any) -> None:
    import numpy as np

    stream = rows(folder, seed, length, weights)
    while True:
        chunk = list(islice(stream, CHUNK_ROWS))
        queue.put((np.array([r[0] for r in chunk], np.uint16), np.array([r[1] for r in chunk], np.uint8)))


class Feeder:
    """Worker processes and the bounded queue between them and the trainer."""

    def __init__(
        self, folder: Path, *, seed: str, length: int, workers: int, weights: Sequence[float]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.weights = context.Array("d", list(weights))
        self._queue = context.Queue(QUEUE_CHUNKS)
        self._workers = [
            context.Process(
                target=_work, args=(folder, f"{seed}/{i}", length, self.weights, self._queue), daemon=True
            )
            for i in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def batch(self, count: int) -> tuple[numpy.ndarray[Any, Any], numpy.ndarray[Any, Any]]:
        """`count` rows (a multiple of CHUNK_ROWS): tokens and mask."""
        import numpy as np

        chunks = [self._queue.get(timeout=300) for _ in range(count // CHUNK_ROWS)]
        return np.concatenate([c[0] for c in chunks]), np.concatenate([c[1] for c in chunks])

    def waiting(self) -> int:
        """Chunks ready; near zero means that the workers are the bottleneck."""
        return int(self._queue.qsize())

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.join()
