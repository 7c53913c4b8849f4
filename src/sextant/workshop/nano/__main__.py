"""`python -m sextant.workshop.nano VERB`: tokenizer, train, export, evaluate, perplexity, reach, card."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from pathlib import Path

from sextant.base.errors import SextantError


def shipped() -> Path:
    """The folder of the shipped artefacts."""
    return Path(str(files("sextant"))) / "models" / "nano"


def _train(args: argparse.Namespace) -> None:
    from sextant.workshop.nano import train

    train.run(
        train.Recipe(
            out=args.out, tokenizer=args.tokenizer, init=args.init, size=args.size, minutes=args.minutes,
            length=args.length,
            batch=args.batch, lr=args.lr, workers=args.workers, seed=args.seed, compiled=not args.eager,
            exam_every_s=args.exam_every_s,
            exam_problems=args.exam_problems,
        )
    )  # fmt: skip


def _tokenizer(args: argparse.Namespace) -> None:
    from sextant.workshop.nano import tokens

    tokens.save(tokens.train(args.texts), args.out)


def _export(args: argparse.Namespace) -> None:
    from sextant.workshop.nano import gguf_export

    gguf_export.export(args.model, args.out, kind=args.kind)


def _evaluate(args: argparse.Namespace) -> None:
    from sextant.workshop.nano import evaluate

    evaluate.main(
        evaluate.Examination(
            base_url=args.base_url, key=args.key, model=args.model, problems=args.problems,
            concurrency=args.concurrency,
            families=tuple(args.families.split(",")) if args.families else (), out=args.out, show=args.show,
            thinking=not args.no_thinking,
        )
    )  # fmt: skip


def _perplexity(args: argparse.Namespace) -> None:
    from sextant.workshop.nano import perplexity

    perplexity.merge(args.model, args.problems, args.measurements)


def _reach(args: argparse.Namespace) -> None:
    from sextant.workshop.nano import evaluate, reach

    reach.merge(
        evaluate.Examination(base_url=args.base_url, key=args.key, model=args.model),
        args.tokenizer,
        args.measurements,
    )


def _card(args: argparse.Namespace) -> None:
    from sextant.workshop.nano import card

    card.write(args.folder, args.measurements)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m sextant.workshop.nano", description=__doc__)
    verbs = top.add_subparsers(required=True)
    hf = shipped() / "hf"

    verb = verbs.add_parser("tokenizer", help="learn the tokenizer from the training stream")
    verb.add_argument("--out", type=Path, default=hf)
    verb.add_argument("--texts", type=int, default=60_000)
    verb.set_defaults(run=_tokenizer)

    verb = verbs.add_parser("train", help="train the model for a given time")
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--tokenizer", type=Path, default=hf)
    verb.add_argument("--init", type=Path, help="go on from this folder instead of random initialisation")
    verb.add_argument("--size", choices=("full", "small"), default="full")
    verb.add_argument("--minutes", type=float, default=8.0)
    verb.add_argument("--length", type=int, default=1024, help="tokens in a row")
    verb.add_argument("--batch", type=int, default=64, help="rows in a step, a multiple of 16")
    verb.add_argument("--lr", type=float, default=1.5e-3)
    verb.add_argument("--workers", type=int, default=15, help="processes that make data")
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--exam-every-s", type=float, default=75.0)
    verb.add_argument(
        "--exam-problems", type=int, default=48, help="held-out problems per family and language"
    )
    verb.add_argument("--eager", action="store_true", help="without torch.compile")
    verb.set_defaults(run=_train)

    verb = verbs.add_parser("export", help="write the GGUF")
    verb.add_argument("--model", type=Path, default=hf)
    verb.add_argument("--out", type=Path, default=shipped() / "sextant-nano.gguf")
    verb.add_argument("--kind", choices=("Q8_0", "F16", "F32"), default="Q8_0")
    verb.set_defaults(run=_export)

    verb = verbs.add_parser("evaluate", help="held-out accuracy through an OpenAI-compatible HTTP API")
    verb.add_argument("--base-url", required=True)
    verb.add_argument("--key", default="none")
    verb.add_argument("--model", default="sextant-nano")
    verb.add_argument("--problems", type=int, default=500, help="per family and language")
    verb.add_argument("--concurrency", type=int, default=8)
    verb.add_argument("--families", default="", help="comma-separated; all by default")
    verb.add_argument("--out", type=Path)
    verb.add_argument("--show", type=int, default=0, help="wrong answers to print per family and language")
    verb.add_argument("--no-thinking", action="store_true")
    verb.set_defaults(run=_evaluate)

    verb = verbs.add_parser("perplexity", help="perplexity of held-out answers, into a measurement file")
    verb.add_argument("--model", type=Path, default=hf)
    verb.add_argument("--problems", type=int, default=60, help="per family and language")
    verb.add_argument("--measurements", type=Path, required=True)
    verb.set_defaults(run=_perplexity)

    verb = verbs.add_parser("reach", help="look-ups in ever longer texts over HTTP, into a measurement file")
    verb.add_argument("--base-url", required=True)
    verb.add_argument("--key", default="none")
    verb.add_argument("--model", default="sextant-nano")
    verb.add_argument("--tokenizer", type=Path, default=hf)
    verb.add_argument("--measurements", type=Path, required=True)
    verb.set_defaults(run=_reach)

    verb = verbs.add_parser("card", help="write the model card from measurements")
    verb.add_argument("--folder", type=Path, default=shipped())
    verb.add_argument("--measurements", type=Path, required=True)
    verb.set_defaults(run=_card)
    return top


def main(argv: list[str] | None = None) -> None:
    """Runs one verb. A mistake of the caller's is one line and exit status 2."""
    args = parser().parse_args(argv)
    try:
        args.run(args)
    except SextantError as error:
        sys.exit(_complain(error.message))
    except FileNotFoundError as error:
        sys.exit(_complain(f"{error.filename} does not exist"))


def _complain(message: str) -> int:
    print(f"sextant: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main(sys.argv[1:])
