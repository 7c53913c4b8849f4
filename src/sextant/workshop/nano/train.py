"""The training recipe: AdamW on a time budget, router balancing without an auxiliary loss, examined as it
goes.

Weak families get more weight: every examination on held-out problems sets the feeder's weights anew. The last
line of `training.jsonl` states the cost.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sextant.base.errors import BadRequest
from sextant.workshop.nano import architecture, pack, template, tokens
from sextant.workshop.nano.curriculum import FAMILIES, WEIGHTS, Sample, held_out
from sextant.workshop.nano.problem import LANGUAGES

EXAM_SEED = 101
BALANCE_STEPS = 40
BALANCE_STEP = 0.01
BALANCE_UNTIL = 0.7
MAX_WEIGHT_FACTOR = 3.0
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Recipe:
    """What one training run is given."""

    out: Path
    tokenizer: Path
    init: Path | None = None
    size: str = "full"
    minutes: float = 8.0
    length: int = 1024
    batch: int = 64
    lr: float = 1.5e-3
    warmup_steps: int = 200
    workers: int = 15
    seed: int = 1
    exam_problems: int = 48
    exam_every_s: float = 75.0
    compiled: bool = True


def run(recipe: Recipe) -> None:
    """Train for the time given; write checkpoints and the log to `recipe.out`. Raises BadRequest when `batch`
    cannot be made of whole chunks, before anything starts."""
    if recipe.batch <= 0 or recipe.batch % pack.CHUNK_ROWS:
        raise BadRequest(
            f"batch is {recipe.batch}; expected a positive multiple of {pack.CHUNK_ROWS}, "
            f"such as {max(1, recipe.batch // pack.CHUNK_ROWS) * pack.CHUNK_ROWS}",
            field="batch",
        )
    if recipe.minutes <= 0:
        raise BadRequest(f"minutes is {recipe.minutes}; expected more than 0", field="minutes")
    import torch

    torch.manual_seed(recipe.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.monotonic()
    feeder = pack.Feeder(
        recipe.tokenizer,
        seed=f"train/{recipe.seed}",
        length=recipe.length + 1,
        workers=recipe.workers,
        weights=list(WEIGHTS.values()),
    )
    try:
        _Trainer(recipe, feeder, device, started).loop()
    finally:
        feeder.close()


def _examination(recipe: Recipe) -> dict[tuple[str, str], list[tuple[list[int], list[int]]]]:
    tokenizer = tokens.load(recipe.tokenizer)
    exam: dict[tuple[str, str], list[tuple[list[int], list[int]]]] = {}
    for family in FAMILIES:
        for language in LANGUAGES:
            texts = [
                Sample(
                    template.render(p.messages, tools=p.tools),
                    template.completion(thinking=p.thinking, content=p.answer, tool_calls=p.tool_calls),
                )
                for p in held_out(EXAM_SEED, family, language, recipe.exam_problems)
            ]
            marked = pack.encode(tokenizer, texts, earlier=False)
            exam[family, language] = [e for e in marked if len(e[0]) <= recipe.length]
    return exam


class _Trainer:
    def __init__(self, recipe: Recipe, feeder: pack.Feeder, device: str, started: float) -> None:
        import torch

        self.recipe, self.feeder, self.device, self.started = recipe, feeder, device, started
        tokenizer = tokens.load(recipe.tokenizer)
        self.model = (
            architecture.load(recipe.init) if recipe.init else architecture.new(tokenizer, recipe.size)
        )
        architecture.use_dense_experts(self.model)
        self.model.to(device).train()
        self.exam = _examination(recipe)
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        plain = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=device == "cuda")
        self.loss = torch.compile(self._loss) if recipe.compiled else self._loss
        recipe.out.mkdir(parents=True, exist_ok=True)
        self.log = (recipe.out / "training.jsonl").open("w", encoding="utf-8")
        self.tokens_seen = 0

    def _autocast(self) -> Any:
        import torch

        return torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else nullcontext()

    def _loss(self, ids_BT: Any, labels_BT: Any) -> Any:
        import torch.nn.functional as F

        hidden = self.model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
        logits = self.model.lm_head(hidden)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels_BT.flatten(), ignore_index=-100)

    def _batch(self) -> tuple[Any, Any]:
        import torch

        ids, mask = self.feeder.batch(self.recipe.batch)
        row = torch.from_numpy(ids.astype("int64")).to(self.device)
        kept = torch.from_numpy(mask).to(self.device)
        return row[:, :-1].contiguous(), row[:, 1:].masked_fill(kept[:, 1:] == 0, -100)

    def loop(self) -> None:
        """Steps until the time is over; the rate falls linearly to zero with the time used."""
        recipe, step, window_steps = self.recipe, 0, 0
        loss: Any = None
        budget_s, next_exam_s = recipe.minutes * 60, recipe.exam_every_s
        window = time.monotonic()
        while (used := self._elapsed_s() / budget_s) < 1:
            ids, loss = self._step(recipe.lr * min(1.0, (step + 1) / recipe.warmup_steps) * (1 - used))
            step, window_steps = step + 1, window_steps + 1
            if step == 1:
                window, window_steps = time.monotonic(), 0
            if step % BALANCE_STEPS == 0 and used < BALANCE_UNTIL:
                self._balance(ids[:4])
            if step == 1 or step % 100 == 0:
                per_s = window_steps * ids.numel() / max(time.monotonic() - window, 1e-9)
                ready = self.feeder.waiting()
                self._write(
                    step=step,
                    loss=round(loss.item(), 4),
                    used=round(used, 3),
                    ready=ready,
                    tokens_per_s=round(per_s),
                )
                window, window_steps = time.monotonic(), 0
            if self._elapsed_s() > next_exam_s:
                self._examine(step)
                self._save()
                next_exam_s = self._elapsed_s() + recipe.exam_every_s
                window, window_steps = time.monotonic(), 0
        if loss is None:
            raise BadRequest(f"minutes is {recipe.minutes}, in which not one step was made", field="minutes")
        self._examine(step)
        self._save()
        self._finish(step, loss)

    def _save(self) -> None:
        """The checkpoint with its tokenizer and chat template, complete for `export`."""
        architecture.save(self.model, self.recipe.out)
        for name in TOKENIZER_FILES:
            shutil.copyfile(self.recipe.tokenizer / name, self.recipe.out / name)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def _step(self, rate: float) -> tuple[Any, Any]:
        """One optimizer step; its tokens and loss."""
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ids, labels = self._batch()
        with self._autocast():
            loss = self.loss(ids, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.tokens_seen += ids.numel()
        return ids, loss

    def _finish(self, step: int, loss: Any) -> None:
        import torch

        told = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.recipe).items()}
        device = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        seconds = round(self._elapsed_s())
        self._write(
            done=True,
            steps=step,
            loss=round(loss.item(), 4),
            tokens=self.tokens_seen,
            seconds=seconds,
            device=device,
            recipe=told,
        )
        self.log.close()

    def _write(self, **entry: Any) -> None:
        line = json.dumps(entry)
        self.log.write(line + "\n")
        self.log.flush()
        print(line, flush=True)

    def _balance(self, ids_BT: Any) -> None:
        """Push the router's selection bias against the load of each expert (DeepSeek-V3 report, section
        2.1.2).
        """
        import torch

        loads: dict[Any, Any] = {}
        gates = [m for m in self.model.modules() if type(m).__name__ == "DeepseekV3TopkRouter"]
        hooks = [g.register_forward_hook(lambda m, _, out: loads.__setitem__(m, out[2])) for g in gates]
        with torch.no_grad(), self._autocast():
            self.model.model(input_ids=ids_BT, use_cache=False)
        for hook in hooks:
            hook.remove()
        for gate, chosen in loads.items():
            load = torch.bincount(chosen.flatten(), minlength=gate.num_experts).float()
            gate.e_score_correction_bias += BALANCE_STEP * torch.sign(load.mean() - load)

    def _examine(self, step: int) -> None:
        """Exact answers by teacher forcing (greedy writes exactly the taught text), and new family
        weights.
        """
        import torch

        self.model.eval()
        scores: dict[str, float] = {}
        for (family, language), texts in self.exam.items():
            right = 0
            for start in range(0, len(texts), 16):
                part = texts[start : start + 16]
                width = max(len(ids) for ids, _ in part)
                ids = torch.tensor([i + [0] * (width - len(i)) for i, _ in part], device=self.device)
                mask = torch.tensor([p + [0] * (width - len(p)) for _, p in part], device=self.device)
                with torch.no_grad(), self._autocast():
                    guess = self.model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1)
                right += int(((guess == ids[:, 1:]) | (mask[:, 1:] == 0)).all(1).sum())
            scores[f"{family}/{language}"] = round(right / max(1, len(texts)), 3)
        self.model.train()
        self._write(step=step, exam=scores)
        for i, (family, base) in enumerate(WEIGHTS.items()):
            error = 1 - min(scores[f"{family}/{language}"] for language in LANGUAGES)
            self.feeder.weights[i] = base * min(MAX_WEIGHT_FACTOR, 1 + 3 * error)
