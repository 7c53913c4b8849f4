"""How fast one measured machine is: a closed loop of callers stepped through the engine as it batches.

llama.cpp, and every engine with continuous batching, runs steps: each request that is being answered gets one
token, and prompts that have arrived fill the rest of the batch, which makes that step longer for all. What a
step and a prompt take is measured (`operations/measure.py`) and fitted here; lengths and concurrencies
between and beyond follow from stepping. Pure. Neighbours: `roofline.py`, which predicts machines that nobody
measured; `queueing.py`, which does the same for arrivals of a trace.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from sextant.base.errors import BadRequest
from sextant.planner.queueing import percentile
from sextant.spec.hardware import Accelerator
from sextant.spec.local_calibration import VERSION, LocalCalibration, LocalPoint
from sextant.spec.planning import Estimate, Layout, MemoryUse, Predict, Question, Speed, Targets

HALVINGS = 40
ROUNDS = 4
"""Answers that each caller asks for in a prediction."""
DOUBLINGS = 8
"""How often the number in flight is doubled in search of the most requests per second."""
SMALLEST_BAND = 1.1
"""No band is narrower: machines do not repeat themselves better than this."""
FORMULA = "stepped: prompt tokens x measured time each + steps of the running requests"


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """A closed loop: callers that each ask `rounds` times, one answer after the other."""

    concurrency: int
    rounds: int
    input_tokens: int
    output_tokens: int


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """What the callers saw, in seconds."""

    concurrency: int
    ttft_s: float
    ttft_p99_s: float
    tpot_s: float
    tpot_p99_s: float
    requests_per_s: float


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Which endpoint was measured, for the file."""

    model: str
    accelerator: str
    precision: str
    measured: str
    slots: int
    batch_tokens: int
    held_tokens: int = 0


def loop_of(point: LocalPoint) -> Loop:
    """The load that the point was measured with."""
    return Loop(
        concurrency=point.concurrency,
        rounds=point.rounds,
        input_tokens=point.input_tokens,
        output_tokens=point.output_tokens,
    )


def lone_s(machine: LocalCalibration, loop: Loop) -> float:
    """Seconds of one answer, alone."""
    one = run(machine, msgspec.structs.replace(loop, concurrency=1, rounds=1))
    return one.ttft_s + (loop.output_tokens - 1) * one.tpot_s


def run(machine: LocalCalibration, loop: Loop) -> Times:
    """What the callers of that loop see. They begin apart, spread over the time of one lone answer."""
    spread_s = 0.0 if loop.concurrency == 1 else lone_s(machine, loop)
    engine = _Engine(machine, loop)
    for caller in range(loop.concurrency):
        engine.arrive(caller * spread_s / loop.concurrency, loop.rounds)
    engine.run()
    answers = len(engine.ttfts_s)
    return Times(
        concurrency=loop.concurrency,
        ttft_s=percentile(engine.ttfts_s, 0.5),
        ttft_p99_s=percentile(engine.ttfts_s, 0.99),
        tpot_s=percentile(engine.tpots_s, 0.5),
        tpot_p99_s=percentile(engine.tpots_s, 0.99),
        requests_per_s=answers / engine.now_s,
    )


def fitted(lone: Sequence[LocalPoint], crowd: LocalPoint, machine: Machine) -> LocalCalibration:
    """The times that explain the points: `lone` has one caller and two or three prompt lengths, `crowd`
    several callers. Raises BadRequest where the points cannot be explained."""
    lengths = {point.input_tokens for point in lone}
    if len(lengths) < 2 or any(point.concurrency != 1 for point in lone) or crowd.concurrency < 2:
        raise BadRequest(
            f"a calibration needs lone requests of two prompt lengths or more and a load of several; "
            f"got lengths {sorted(lengths)} and {crowd.concurrency} at once"
        )
    prompts = [(1.0, float(p.input_tokens), float(p.input_tokens) ** 2) for p in lone]
    request_s, per_token, per_token2 = _fit(prompts, [p.ttft_ms / 1000 for p in lone])
    held = [(1.0, p.input_tokens + p.output_tokens / 2) for p in lone]
    step_s, step_s_per_token = _fit(held, [p.tpot_ms / 1000 for p in lone])
    found = LocalCalibration(
        version=VERSION,
        **msgspec.structs.asdict(machine),
        request_s=request_s,
        prompt_s_per_token=per_token,
        prompt_s_per_token2=per_token2,
        step_s=step_s,
        step_s_per_request=0.0,
        step_s_per_token=step_s_per_token,
        band=1.0,
        points=(*lone, crowd),
    )
    low, high = 0.0, crowd.tpot_ms / 1000
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried = msgspec.structs.replace(found, step_s_per_request=middle)
        slower = run(tried, loop_of(crowd)).tpot_s > crowd.tpot_ms / 1000
        low, high = (low, middle) if slower else (middle, high)
    return msgspec.structs.replace(found, step_s_per_request=low)


def missed_by(machine: LocalCalibration, point: LocalPoint) -> float:
    """The larger factor, 1 or more, by which TTFT or TPOT of that point is missed."""
    seen = run(machine, loop_of(point))
    ratios = (seen.ttft_s * 1000 / point.ttft_ms, seen.tpot_s * 1000 / point.tpot_ms)
    return max(max(ratio, 1 / ratio) for ratio in ratios)


def checked(machine: LocalCalibration, points: Sequence[LocalPoint]) -> LocalCalibration:
    """The calibration with the band that held-out `points` show, kept beside the fitted ones."""
    band = max([SMALLEST_BAND, *(missed_by(machine, point) for point in points)])
    return msgspec.structs.replace(machine, band=band, points=(*machine.points, *points))


def local_predictor(machine: LocalCalibration, otherwise: Predict) -> Predict:
    """Predicts the measured model on the measured machine by its own times, anything else as `otherwise`."""

    def predict(question: Question, layout: Layout, accelerator: Accelerator, memory: MemoryUse) -> Speed:
        mine = (question.architecture.id, question.precision, accelerator.id)
        if mine != (machine.model, machine.precision, machine.accelerator) or layout.replica > 1:
            return otherwise(question, layout, accelerator, memory)
        return _speed(machine, question, layout)

    return predict


def _speed(machine: LocalCalibration, question: Question, layout: Layout) -> Speed:
    load, replicas = question.workload, layout.dp
    loop = Loop(
        concurrency=1,
        rounds=ROUNDS,
        input_tokens=max(1, round(load.input_tokens * (1 - load.prefix_hit_share))),
        output_tokens=load.output_tokens,
    )
    steps = _climb(machine, loop)
    wanted, asked = load.peak_requests_per_s / replicas, question.wishes.concurrency
    if asked:
        now = run(machine, msgspec.structs.replace(loop, concurrency=math.ceil(asked / replicas)))
    else:
        now = next((one for one in steps if one.requests_per_s >= wanted), steps[-1])
    inside = [one.requests_per_s for one in steps if _meets(one, question.targets, load.output_tokens)]

    def stated(value: float, unit: str) -> Estimate:
        return Estimate(
            value=value,
            low=value / machine.band,
            high=value * machine.band,
            unit=unit,
            basis="calibrated",
            formula=FORMULA,
            sources=(machine.measured,),
        )

    measured = max(point.concurrency for point in machine.points)
    beyond = f"{now.concurrency} requests in flight are far beyond the {measured} that were measured here"
    return Speed(
        concurrency=now.concurrency * replicas,
        running_most=machine.slots,
        warnings=(beyond,) if now.concurrency > 2 * measured else (),
        ttft_ms=stated(now.ttft_s * 1000, "ms"),
        tpot_ms=stated(now.tpot_s * 1000, "ms"),
        ttft_ms_p99=stated(now.ttft_p99_s * 1000, "ms"),
        tpot_ms_p99=stated(now.tpot_p99_s * 1000, "ms"),
        output_tokens_per_s=stated(now.requests_per_s * load.output_tokens * replicas, "tokens/s"),
        requests_per_s_max=stated(max(inside, default=0.0) * replicas, "requests/s"),
    )


def _climb(machine: LocalCalibration, loop: Loop) -> list[Times]:
    """Times at 1, 2, 4 ... in flight, until twice the slots: more only waits."""
    found, concurrency = [], 1
    for _ in range(DOUBLINGS):
        found.append(run(machine, msgspec.structs.replace(loop, concurrency=concurrency)))
        if concurrency >= 2 * machine.slots:
            break
        concurrency *= 2
    return found


def _meets(one: Times, targets: Targets, output_tokens: int) -> bool:
    end_s = one.ttft_p99_s + output_tokens * one.tpot_p99_s
    pairs = (
        (targets.ttft_ms_p99, one.ttft_p99_s),
        (targets.tpot_ms_p99, one.tpot_p99_s),
        (targets.end_to_end_ms, end_s),
    )
    return all(wanted is None or got * 1000 <= wanted for wanted, got in pairs)


class _Request:
    """One request in the engine: what of its prompt is read, what of its answer written."""

    def __init__(self, at_s: float, rounds: int) -> None:
        self.at_s = at_s
        self.rounds = rounds
        """Answers that its caller still wants, this one included."""
        self.read = 0
        self.written = 0
        self.first_s = 0.0


class _Engine:
    """Slots, the requests in them, and a clock."""

    def __init__(self, machine: LocalCalibration, loop: Loop) -> None:
        self.machine, self.loop = machine, loop
        self.now_s = 0.0
        self.coming: deque[_Request] = deque()
        self.running: list[_Request] = []
        self.ttfts_s: list[float] = []
        self.tpots_s: list[float] = []

    def arrive(self, at_s: float, rounds: int) -> None:
        """A request whose caller asks so often; requests arrive in order of their times."""
        self.coming.append(_Request(at_s, rounds))

    def run(self) -> None:
        """Until all is answered."""
        while self.coming or self.running:
            self._admit()
            if not self.running:
                self.now_s = max(self.now_s, self._seen_s(self.coming[0]))
                continue
            reading = [one for one in self.running if one.read < self.loop.input_tokens]
            if reading:
                self._read(reading)
            else:
                self._write()

    def _seen_s(self, request: _Request) -> float:
        return request.at_s + self.machine.request_s

    def _admit(self) -> None:
        while self.coming and len(self.running) < self.machine.slots:
            if self._seen_s(self.coming[0]) > self.now_s:
                return
            self.running.append(self.coming.popleft())

    def _read(self, reading: list[_Request]) -> None:
        """One step with prompts in it: first a token for everyone who is being answered."""
        writing = [one for one in self.running if one.written]
        room = self.machine.batch_tokens - len(writing)
        took_s = self._step_s(writing) if writing else 0.0
        done = []
        for one in reading:
            tokens = min(room, self.loop.input_tokens - one.read)
            room -= tokens
            took_s += self._prompt_s(one.read + tokens) - self._prompt_s(one.read)
            one.read += tokens
            if tokens and one.read == self.loop.input_tokens:
                done.append(one)
        self.now_s += took_s
        self._written((*writing, *done), 1)

    def _write(self) -> None:
        """Steps without a prompt, as many at once as nobody comes or leaves in."""
        held = self.machine.held_tokens
        unseen = any(one.written <= held for one in self.running)
        steps = 1 if unseen else min(self.loop.output_tokens - one.written for one in self.running)
        each_s = self._step_s(self.running)
        if self.coming and len(self.running) < self.machine.slots:
            until_s = self._seen_s(self.coming[0]) - self.now_s
            steps = max(1, min(steps, math.ceil(until_s / each_s)))
        grown = self.machine.step_s_per_token * len(self.running) * steps * (steps - 1) / 2
        self.now_s += steps * each_s + grown
        self._written(self.running, steps)

    def _written(self, writing: Sequence[_Request], tokens: int) -> None:
        """So many tokens more for each; whoever has all leaves, and its caller asks again."""
        for one in writing:
            one.written += tokens
            if not one.first_s and one.written > self.machine.held_tokens:
                one.first_s = self.now_s
                self.ttfts_s.append(self.now_s - one.at_s)
        gaps = max(1, self.loop.output_tokens - 1 - self.machine.held_tokens)
        for one in [each for each in self.running if each.written >= self.loop.output_tokens]:
            self.running.remove(one)
            self.tpots_s.append((self.now_s - one.first_s) / gaps)
            if one.rounds > 1:
                self.arrive(self.now_s, one.rounds - 1)

    def _step_s(self, writing: Sequence[_Request]) -> float:
        machine = self.machine
        held = sum(one.read + one.written for one in writing)
        return (
            machine.step_s + (len(writing) - 1) * machine.step_s_per_request + held * machine.step_s_per_token
        )

    def _prompt_s(self, tokens: int) -> float:
        return tokens * self.machine.prompt_s_per_token + tokens**2 * self.machine.prompt_s_per_token2


def _fit(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Coefficients of 0 or more with the least squared relative error; of those sets of columns that give
    none below 0, the best. Few columns, so all sets are tried."""
    columns = len(rows[0])
    best: tuple[float, list[float]] = (math.inf, [0.0] * columns)
    for kept in range(1, 2**columns):
        used = [column for column in range(columns) if kept >> column & 1]
        if len(used) > len(rows):
            continue
        solved = _solved([[row[c] / v for c in used] for row, v in zip(rows, values, strict=True)])
        if solved is None or min(solved) < 0:
            continue
        whole = [0.0] * columns
        for column, value in zip(used, solved, strict=True):
            whole[column] = value
        error = sum(
            (sum(a * b for a, b in zip(row, whole, strict=True)) / v - 1) ** 2
            for row, v in zip(rows, values, strict=True)
        )
        if error < best[0] - 1e-12:
            best = (error, whole)
    return best[1]


def _solved(rows: Sequence[Sequence[float]]) -> list[float] | None:
    """Least squares of `rows x = 1` by the normal equations; None where they do not determine x."""
    size = len(rows[0])
    dot: Callable[[int, int], float] = lambda a, b: sum(row[a] * row[b] for row in rows)  # noqa: E731
    scale = [math.sqrt(dot(column, column)) or 1.0 for column in range(size)]
    left = [[dot(a, b) / scale[a] / scale[b] for b in range(size)] for a in range(size)]
    right = [sum(row[a] for row in rows) / scale[a] for a in range(size)]
    for pivot in range(size):
        top = max(range(pivot, size), key=lambda row: abs(left[row][pivot]))
        if abs(left[top][pivot]) < 1e-9:
            return None
        left[pivot], left[top], right[pivot], right[top] = left[top], left[pivot], right[top], right[pivot]
        for row in range(size):
            if row != pivot:
                by = left[row][pivot] / left[pivot][pivot]
                left[row] = [a - by * b for a, b in zip(left[row], left[pivot], strict=True)]
                right[row] -= by * right[pivot]
    return [right[at] / left[at][at] / scale[at] for at in range(size)]
