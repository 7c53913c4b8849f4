"""Coverage-guided fuzzing of the transport: `python run.py server|upstream [--loop stepping] [-runs=N …]`.

`--loop asyncio|uvloop` and `--tls` drive the same rules through real sockets. Everything that starts with a
dash and one letter more is libFuzzer's (`-runs`, `-max_total_time`, `-seed`, `-artifact_prefix`). The corpus
begins with the streams of the tests, and grows in `--corpus` when that is given.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[2] / "src")]

with atheris.instrument_imports(include=["sextant.transport"], enable_loader_override=False):
    import sextant.transport.client
    import sextant.transport.server  # noqa: F401 - instrumented here

import sockets  # noqa: E402 - after the instrumentation
import targets  # noqa: E402
from seeds import DICTIONARY, seeds  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(targets.TARGETS))
    parser.add_argument("--loop", choices=["stepping", "asyncio", "uvloop"], default="stepping")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--replay", type=Path, help="run the target once, on a finding")
    options, rest = parser.parse_known_args()
    if options.loop == "stepping":
        target = targets.TARGETS[options.target]
    else:
        target = sockets.make_target(options.target, options.loop, tls=options.tls)
    if options.replay is not None:
        target(options.replay.read_bytes())
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        corpus = options.corpus or Path(folder) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(options.target)):
            (corpus / f"seed-{number:04d}").write_bytes(seed)
        words = Path(folder) / "dictionary"
        words.write_text(DICTIONARY)
        atheris.Setup([sys.argv[0], str(corpus), f"-dict={words}", "-max_len=2048", *rest], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
