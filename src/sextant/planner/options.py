"""The options of one accelerator: what fits, how many it takes, how fast it is, what it costs, and what came
close.

`plan.py` calls this for each accelerator. Prediction and cost are passed in (`Predict`, `CostOf`), so this
file knows neither. More load never takes fewer accelerators: a replica's capacity does not depend on the
load, and replicas are counted up.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from sextant.planner import host, memory, parallel
from sextant.spec.architecture import PRECISIONS, Precision
from sextant.spec.hardware import Accelerator
from sextant.spec.planning import (
    Break,
    Cost,
    CostOf,
    Engine,
    Estimate,
    Layout,
    MemoryUse,
    Option,
    Predict,
    Question,
    Refusal,
    Speed,
)

HOURS_PER_MONTH = 730
REPLICA_GROWTH = 8
"""Replicas over so many times the smallest that fits are not asked about."""
SPLIT_FROM_REPLICAS = 4
"""From so many replicas on, running prompts apart from answers is worth asking about."""
MOST_ACCELERATORS = 100_000
LONE_REQUESTS_PER_S = 1e-6
NEARLY = 1 - 1e-9
"""Of a rate, for what rounding takes."""


LLAMA: frozenset[Engine] = frozenset({"llamacpp", "embedded"})
"""Engines that read GGUF files."""
IN_GGUF: frozenset[Precision] = memory.GGUF | {"bf16", "fp4"}
"""What those hold; `fp4` as MXFP4, which is how gpt-oss is published."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What predicts and what rates."""

    predict: Predict
    cost: CostOf | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What one accelerator offers."""

    options: tuple[Option, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def options_of(question: Question, accelerator: Accelerator, tools: Tools) -> Found:
    """Every option of that accelerator that meets the question, and why the others do not."""
    wanted = parallel.not_on(question.engine, accelerator)
    if wanted:
        return Found(refusals=(_no_engine(question.engine, accelerator, wanted),))
    made: list[Option] = []
    refused: list[Refusal] = []
    smallest = 0
    for layout in parallel.replicas(question, accelerator):
        use = _replica_memory(question, layout, accelerator)
        if use.first_break is not None:
            refused.append(_does_not_fit(question, accelerator, layout, use))
            continue
        smallest = smallest or layout.replica
        staged = layout.pp > 1 and any(option.layout.pp == 1 for option in made)
        if layout.replica > smallest * REPLICA_GROWTH or (staged and not question.wishes.pp):
            continue
        answer = _sized(question, accelerator, (layout, use), tools)
        (made if isinstance(answer, Option) else refused).append(answer)  # type: ignore[arg-type]
    if question.wishes.split is not False:
        made.extend(_split_options(question, accelerator, tuple(made), tools))
    if question.wishes.split:
        made = [option for option in made if option.layout.prefill is not None]
        if not made:
            refused.append(_no_split(accelerator))
    return Found(options=_best(made), refusals=tuple(refused))


def precisions_of(engine: Engine) -> tuple[Precision, ...]:
    """The ways in which that engine keeps weights."""
    return tuple(one for one in PRECISIONS if engine not in LLAMA or one in IN_GGUF)


def lowest(options: tuple[Option, ...], rank: Callable[[Option], float | None]) -> int | None:
    """Index of the option with the lowest rank; None when none has one."""
    ranked = [(value, index) for index, option in enumerate(options) if (value := rank(option)) is not None]
    return min(ranked)[1] if ranked else None


def price(option: Option) -> float | None:
    """US dollars per hour, where known."""
    if option.cost is None or option.cost.usd_per_h is None:
        return None
    return option.cost.usd_per_h.value


def answer_ms(option: Option) -> float:
    """Milliseconds from the request to the end of its answer at the load asked for, without the output's
    length: first token and a hundred more."""
    return option.speed.ttft_ms.value + 100 * option.speed.tpot_ms.value


def watts_per_request(option: Option) -> float:
    """Watts for one request per second at full use."""
    return option.count * option.accelerator.watts / option.speed.requests_per_s_max.value


def _replica_memory(question: Question, layout: Layout, accelerator: Accelerator) -> MemoryUse:
    """One replica with one request: more of them are shared among replicas later."""
    wishes = question.wishes
    replicas = wishes.dp or (wishes.count // layout.replica if wishes.count else 0)
    requests = math.ceil(wishes.concurrency / replicas) if wishes.concurrency and replicas else 1
    return memory.memory_use(question, layout, accelerator, requests=requests)


def _sized(
    question: Question, accelerator: Accelerator, replica: tuple[Layout, MemoryUse], tools: Tools
) -> Option | Refusal:
    layout, use = replica
    one = tools.predict(question, layout, accelerator, use)
    most = one.requests_per_s_max.value
    if not most > 0:
        lone = tools.predict(_alone(question), layout, accelerator, use)
        return _too_slow(question, accelerator, layout, lone)
    needed = math.ceil(question.workload.peak_requests_per_s / most)
    if question.wishes.concurrency:
        needed = max(needed, math.ceil(question.wishes.concurrency / max(1, use.requests_fit)))
    wishes = question.wishes
    wished = wishes.dp or (wishes.count // layout.count if wishes.count else None)
    if wishes.count and wishes.count % layout.count:
        return _wrong_count(accelerator, layout, wishes.count)
    if needed * layout.count > MOST_ACCELERATORS:
        return _too_many(accelerator, layout, needed, MOST_ACCELERATORS)
    if wished is not None and wished < needed:
        return _too_many(accelerator, layout, needed, wished * layout.count)
    replicas = wished or needed
    if wishes.most is not None and replicas * layout.count > wishes.most:
        return _too_many(accelerator, layout, replicas, wishes.most)
    return _option(question, accelerator, (parallel.times(layout, replicas), use), tools)


def _option(
    question: Question, accelerator: Accelerator, sized: tuple[Layout, MemoryUse], tools: Tools
) -> Option | Refusal:
    layout, use = sized
    speed = tools.predict(question, layout, accelerator, use)
    if layout.prefill is None:
        in_flight = max(speed.concurrency, question.wishes.concurrency or 0)
        loaded = memory.memory_use(question, layout, accelerator, requests=in_flight)
        use = loaded if loaded.fits else use
    cost: Cost | None = None
    no_cost = "no prices were given"
    if tools.cost is not None:
        cost = tools.cost(question, accelerator, layout, speed)
        no_cost = "" if cost.usd_per_h is not None else "; ".join(cost.missing) or "no price is known"
    budget = question.costs.most_usd_per_month
    if budget is not None and cost is not None and cost.usd_per_h is not None:
        monthly = cost.usd_per_h.value * HOURS_PER_MONTH
        if monthly > budget:
            return _too_dear(accelerator, layout, monthly, budget)
    needed = host.host_needed(question, layout, accelerator)
    return Option(
        accelerator=accelerator,
        count=layout.count,
        layout=layout,
        memory=use,
        speed=speed,
        cost=cost,
        no_cost=no_cost,
        host=needed,
        warnings=(
            *speed.warnings,
            *_format_warnings(question, accelerator),
            *host.host_warnings(question, needed),
        ),
    )


def _split_options(
    question: Question, accelerator: Accelerator, made: tuple[Option, ...], tools: Tools
) -> list[Option]:
    """Prefill apart from decode, where there is enough of it or it is wished."""
    wishes, found = question.wishes, []
    allowed = wishes.count or wishes.most or MOST_ACCELERATORS
    big = [
        option
        for option in made
        if (option.layout.dp >= SPLIT_FROM_REPLICAS or wishes.split) and 2 * option.layout.replica <= allowed
    ]
    for option in sorted(big, key=watts_per_request)[:1]:
        one = msgspec.structs.replace(option.layout, dp=1)
        replicas = min(SPLIT_FROM_REPLICAS, allowed // one.replica)
        for split in parallel.splits(one, one, replicas=replicas):
            sized = _sized(question, accelerator, (split, option.memory), tools)
            if isinstance(sized, Option) and _carries(question, sized):
                found.append(sized)
    return found


def _carries(question: Question, option: Option) -> bool:
    """Whether all of it together carries the peak, which was divided by what its smallest part does."""
    return option.speed.requests_per_s_max.value >= question.workload.peak_requests_per_s * NEARLY


def _best(made: list[Option]) -> tuple[Option, ...]:
    """Of one accelerator's options those with the fewest cards, the lowest price, the fastest answer and the
    best efficiency."""
    if not made:
        return ()
    options = tuple(made)
    ranks: tuple[Callable[[Option], float | None], ...] = (
        lambda option: float(option.count),
        price,
        answer_ms,
        watts_per_request,
    )
    kept = {index for rank in ranks if (index := lowest(options, rank)) is not None}
    return tuple(options[index] for index in sorted(kept))


def _format_warnings(question: Question, accelerator: Accelerator) -> tuple[str, ...]:
    rates, found = accelerator.flops_per_s, []
    if question.precision == "fp8" and not rates.fp8:
        found.append(
            f"{accelerator.id} has no FP8 units: weights are widened on the fly, no faster than BF16"
        )
    if question.precision == "fp4" and not rates.fp4:
        found.append(f"{accelerator.id} has no FP4 units: weights are widened on the fly")
    if question.architecture.attention == "v4" and question.kv_precision != "fp8":
        found.append("V4 runs with an FP8 cache only; plan it with kv_precision fp8")
    return tuple(found)


def _does_not_fit(question: Question, accelerator: Accelerator, layout: Layout, use: MemoryUse) -> Refusal:
    broken = use.first_break
    assert broken is not None  # asked only where something broke
    usable = use.capacity_bytes - use.reserve_bytes
    needed = broken.numbers.get("needed_bytes", 0.0)
    there = broken.numbers.get("there_bytes", 0.0)
    smaller = _smaller(question, layout, usable)
    more = ""
    if accelerator.kind not in parallel.SINGLE:
        more = f", or {math.ceil(layout.replica * needed / usable)} accelerators or more in a replica"
    advice = {
        "weights": smaller + more,
        "overheads": smaller + more,
        "kv_cache": "fewer requests at once, a shorter context, or an FP8 cache",
        "context": f"a context of at most {question.architecture.context_tokens} tokens",
    }
    near = max(0.0, there / needed) if needed else 0.0
    return Refusal(
        accelerator=accelerator, layout=layout, first_break=broken, give_up=advice[broken.key], nearness=near
    )


def _smaller(question: Question, layout: Layout, usable_bytes: int) -> str:
    """The widest precision whose weights alone would have room."""
    model = question.architecture
    llama = question.engine in LLAMA
    sizes = [
        (memory.weights_on_rank(model, precision, layout), precision)
        for precision in precisions_of(question.engine)
        if precision != question.precision and (precision not in memory.GGUF or llama)
    ]
    fitting = [(size, precision) for size, precision in sizes if size <= usable_bytes]
    if not fitting:
        return "a smaller model: in no precision do the weights fit"
    size, precision = max(fitting)
    return f"{precision} weights ({size / memory.GIB:.3g} GiB on each)"


def _alone(question: Question) -> Question:
    """The same question with hardly a request at a time."""
    workload = msgspec.structs.replace(question.workload, requests_per_s=LONE_REQUESTS_PER_S)
    wishes = msgspec.structs.replace(question.wishes, concurrency=None)
    return msgspec.structs.replace(question, workload=workload, wishes=wishes)


def _too_slow(question: Question, accelerator: Accelerator, layout: Layout, speed: Speed) -> Refusal:
    """One request alone misses a target: the one that is missed by most."""
    targets = question.targets
    end_ms = speed.ttft_ms_p99.value + question.workload.output_tokens * speed.tpot_ms_p99.value
    checked = (
        ("ttft_ms_p99", targets.ttft_ms_p99, speed.ttft_ms_p99.value),
        ("tpot_ms_p99", targets.tpot_ms_p99, speed.tpot_ms_p99.value),
        ("end_to_end_ms", targets.end_to_end_ms, end_ms),
    )
    missed = [(wanted / got, name, wanted, got) for name, wanted, got in checked if wanted and got > wanted]
    if not missed:
        broken = Break(key="speed", text="it carries no request inside the targets")
        return _refusal(accelerator, layout, broken, give_up="the latency targets", nearness=0.0)
    near, name, wanted, got = min(missed)
    broken = Break(
        key=name,
        numbers={"wanted_ms": wanted, "predicted_ms": got},
        text=f"{name} of {wanted:g} ms is asked, one request alone takes {got:.3g} ms",
    )
    return _refusal(accelerator, layout, broken, give_up=f"{name} of {got:.3g} ms", nearness=near)


def _wrong_count(accelerator: Accelerator, layout: Layout, count: int) -> Refusal:
    less, more = count - count % layout.count, count + layout.count - count % layout.count
    broken = Break(
        key="count",
        numbers={"wished": count, "replica": layout.count},
        text=f"{count} accelerators are asked, a replica takes {layout.count}",
    )
    give_up = f"{more} accelerators" if not less else f"{less} or {more} accelerators"
    return _refusal(accelerator, layout, broken, give_up=give_up, nearness=count / more)


def _too_many(accelerator: Accelerator, layout: Layout, replicas: int, allowed: int) -> Refusal:
    needed = replicas * layout.count
    broken = Break(
        key="load",
        numbers={"needed": needed, "allowed": allowed},
        text=f"the load needs {needed} accelerators, {allowed} are allowed",
    )
    near = allowed / needed
    give_up = f"{needed} accelerators, or {100 * near:.3g} % of the load"
    return _refusal(accelerator, layout, broken, give_up=give_up, nearness=near)


def _too_dear(accelerator: Accelerator, layout: Layout, monthly_usd: float, budget_usd: float) -> Refusal:
    broken = Break(
        key="budget",
        numbers={"usd_per_month": monthly_usd, "most_usd_per_month": budget_usd},
        text=f"{layout.count} accelerators cost {monthly_usd:,.0f} USD a month, allowed: {budget_usd:,.0f}",
    )
    give_up = f"a budget of {monthly_usd:,.0f} USD a month"
    return _refusal(accelerator, layout, broken, give_up=give_up, nearness=budget_usd / monthly_usd)


def _no_engine(engine: str, accelerator: Accelerator, wanted: str) -> Refusal:
    broken = Break(key="engine", text=f"{engine} runs on {wanted}, not on {accelerator.id}")
    other = "llamacpp" if engine in LLAMA else "vllm"
    return _refusal(accelerator, None, broken, give_up=f"another engine, such as {other}", nearness=0.0)


def _no_split(accelerator: Accelerator) -> Refusal:
    broken = Break(key="split", text="no layout with prefill and decode apart meets the question")
    return _refusal(accelerator, None, broken, give_up="the split of prefill and decode", nearness=0.5)


def _refusal(
    accelerator: Accelerator, layout: Layout | None, broken: Break, *, give_up: str, nearness: float
) -> Refusal:
    return Refusal(
        accelerator=accelerator, layout=layout, first_break=broken, give_up=give_up, nearness=nearness
    )


def sources_of(speed: Speed) -> tuple[str, ...]:
    """What the numbers of a prediction rest on."""
    estimates: tuple[Estimate, ...] = (speed.ttft_ms, speed.tpot_ms, speed.output_tokens_per_s)
    return tuple(dict.fromkeys(source for one in estimates for source in one.sources))
