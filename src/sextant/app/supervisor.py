"""The supervisor of `sextant up`: starts the ledger, the engines, the gateway and control, watches them,
starts again what dies, and stops all of them in the reverse order.

It decides nothing about requests: what it sees of the engines goes into `routes.json`, which gateways poll.
Neighbours: `members.py` (each process of it), `child.py` (one process), `remote_watch.py` (an endpoint
elsewhere), `plan.py` (what to run), `up.py` (the frame around it: lock, first start, ports).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

import sextant
from sextant.app.apply_door import ApplyDoor
from sextant.app.bootstrap import FirstRun
from sextant.app.child import Child, trim_log
from sextant.app.engine_metrics import render, scrape_all
from sextant.app.entry import DRAIN_GRACE_S
from sextant.app.events import Changed, Serving, Stopping, Tell
from sextant.app.gateway_look import GatewayLook
from sextant.app.members import Kind, Member, gateway_probe, members_of
from sextant.app.model_plan import EnginePlan
from sextant.app.orphans import sweep
from sextant.app.placing import Ports
from sextant.app.plan import Plan, gateway_workers
from sextant.app.probe import ProbeFailed
from sextant.app.remote_watch import RemoteWatch
from sextant.app.routes import RouteBook, Verdict
from sextant.app.state import StateDir, reserve_port, write_private
from sextant.app.swap import Swap
from sextant.base.errors import SextantError
from sextant.control.settings import Applied, ProcessStatus, Status
from sextant.spec.snapshot import ServedModel

STOP_ORDER: tuple[Kind, ...] = ("control", "forwarder", "gateway", "engine", "identity", "ledger")
START_ATTEMPTS = 3
"""A process that dies so often before it was ever ready fails the start."""
GATEWAY_READY_TIMEOUT_S = 10.0
WRITE_RETRY_S = 1.0
LOG_LOOK_INTERVAL_S = 10.0
ENGINE_METRICS_INTERVAL_S = 5.0
SWEEP_INTERVAL_S = 0.1

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs one `Plan`, and what is applied to it. Use it once: `await run()`."""

    def __init__(
        self,
        plan: Plan,
        state: StateDir,
        *,
        tell: Tell,
        ports: Ports,
        first_run: FirstRun | None = None,
    ) -> None:
        self._plan = plan
        self._state = state
        self._tell = tell
        self._first_run = first_run
        self._began = time.monotonic()
        self._started_ms = time.time_ns() // 1_000_000
        self._routes = RouteBook(state.routes_file, plan.models)
        self._changed = asyncio.Event()
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._stopping = False
        # Held as long as the supervisor lives, so that nobody else gets one between two starts of a worker.
        self._probe_ports = [
            reserve_port("127.0.0.1") for _ in range(plan.workers if plan.workers > 1 else 0)
        ]
        probed = [int(held.getsockname()[1]) for held in self._probe_ports]
        self._gateways = gateway_workers(plan, probed)
        self._members = members_of(plan, state, self._gateways, self.on_change)
        self._broken: asyncio.Future[None] | None = None
        """What ended the watch over a member, which nobody would restart."""
        self._swap = Swap(self, state, plan, ports)
        self._door = ApplyDoor(state, self._swap.change, self._on_applied)
        self._look = GatewayLook(plan, self._gateways)
        self._applied: Applied | None = None

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or SIGHUP. Raises SextantError; then nothing that was started is left."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` has its way
                loop.add_signal_handler(number, self._on_stop_signal)
        self._broken = loop.create_future()
        self._routes.publish()
        for member in self._members:
            self._watch(member)
        try:
            if await self._until_serving():
                await self._door.open()
                await self._until_stopped()
                self._tell(Stopping(DRAIN_GRACE_S))
        finally:
            await self._stop_all()
            for held in self._probe_ports:
                held.close()

    def _on_stop_signal(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _until_serving(self) -> bool:
        """True once everything answers; False when asked to stop before. Raises SextantError."""
        while not self._stop.is_set():
            self._check_start()
            if all(self._is_settled(member) for member in self._members):
                break
            await self._next_change()
        if self._stop.is_set():
            return False
        engines = [member for member in self._members if member.kind == "engine"]
        waiting = [member for member in engines if member.condition.state != "ready"]
        if engines and all(self._is_given_up(member) for member in waiting) and len(waiting) == len(engines):
            reasons = "; ".join(f"{member.name}: {member.condition.reason}" for member in waiting)
            raise _start_failed(f"no engine starts: {reasons}; their logs are in {self._state.logs}")
        if len(waiting) < len(engines):
            await self._gateway_ready()
        self._tell(
            Serving(
                url=self._plan.url,
                control_url=self._plan.control_url,
                models=tuple(model.id for model in self._plan.models),
                state_dir=str(self._state.root),
                after_s=time.monotonic() - self._began,
                not_ready=tuple(f"{m.name}: {m.condition.reason}" for m in waiting),
                first_run=self._first_run,
            )
        )
        return True

    async def _until_stopped(self) -> None:
        """Until a signal, looking after the logs meanwhile."""
        chores = [
            asyncio.ensure_future(self._trim_logs()),
            asyncio.ensure_future(self._read_engine_metrics()),
        ]
        try:
            await self._first_of(self._stop.wait(), *chores)
            for chore in chores:
                if chore.done():
                    chore.result()
        finally:
            for chore in chores:
                chore.cancel()

    async def _first_of(self, *awaited: Awaitable[Any]) -> None:
        """Until one of these is done. Raises what ended the watch over a member: nobody would restart it."""
        assert self._broken is not None
        waits = [asyncio.ensure_future(one) for one in awaited]
        ends: set[asyncio.Future[Any]] = {*waits, self._broken}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._broken.done():
            self._broken.result()

    def _watch(self, member: Member) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and self._broken is not None and not self._broken.done():
                self._broken.set_exception(error)

        member.task = asyncio.get_running_loop().create_task(member.runner.run(), name=member.name)
        member.task.add_done_callback(ended)

    # What a swap needs, `swap.Crew`.

    @property
    def members(self) -> Sequence[Member]:
        return self._members

    def enlist(self, member: Member) -> None:
        """Starts it; it does not serve yet."""
        member.serves = False
        self._members.append(member)
        self._watch(member)

    async def dismiss(self, members: Sequence[Member]) -> None:
        """Stops them and forgets them."""
        for member in members:
            member.runner.stop()
        await asyncio.gather(*(one.task for one in members if one.task is not None), return_exceptions=True)
        self._members = [member for member in self._members if member not in members]
        self._write_out()

    def serve(self, models: tuple[ServedModel, ...]) -> int:
        """Publishes a route table of `models`; its version. Raises OSError."""
        version = self._routes.serve(models)
        named = {upstream.id for model in models for upstream in model.upstreams}
        for member in self._members:
            member.serves = member.engine is None or member.engine.upstream_id in named
        self._write_out()
        return version

    async def changed(self) -> None:
        """Until the next change of any member."""
        await self._next_change()

    async def took(self, version: int, timeout_s: float) -> bool:
        """Whether all gateways use that table."""
        return await self._look.took(version, timeout_s)

    async def drained(self, engines: Sequence[EnginePlan], timeout_s: float) -> bool:
        """Whether no request needs them any longer."""
        return await self._look.drained(engines, timeout_s)

    def _on_applied(self, applied: Applied) -> None:
        self._applied = applied
        self._write_out()

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_LOOK_INTERVAL_S)
            for log in self._state.logs.glob("*.log"):
                trim_log(log)

    async def _read_engine_metrics(self) -> None:
        """Keeps what ready engines say of themselves in a file that control serves."""
        while True:
            targets = [
                member.engine.metrics
                for member in self._members
                if member.engine is not None
                and member.engine.metrics is not None
                and member.condition.state == "ready"
            ]
            text = render(await scrape_all(targets))
            with contextlib.suppress(OSError):  # a full disk: the next round tries again
                write_private(self._state.engine_metrics_file, text)
            await asyncio.sleep(ENGINE_METRICS_INTERVAL_S)

    async def _next_change(self) -> None:
        await self._first_of(self._changed.wait(), self._stop.wait())
        self._changed.clear()

    def _is_settled(self, member: Member) -> bool:
        """Whether a start need not wait for it any longer: an endpoint elsewhere is only asked once, and of
        several models one that does not start keeps the others from nothing."""
        if isinstance(member.runner, RemoteWatch):
            return member.condition.state in ("ready", "unwell")
        return member.condition.state == "ready" or self._is_given_up(member)

    def _is_given_up(self, member: Member) -> bool:
        """One engine of several that died before it was ever ready; it is started again all the same."""
        if member.kind != "engine" or len(self._plan.engines) == 1:
            return False
        return member.condition.restarts > 0 or member.condition.state == "waiting"

    def _check_start(self) -> None:
        for member in self._members:
            condition = member.condition
            if condition.state != "waiting" or self._is_given_up(member):
                continue
            if condition.exit_code == os.EX_CONFIG:
                raise _start_failed(f"{member.name}: {_without_status(condition.reason)}")
            if condition.exit_code is None or condition.restarts + 1 >= START_ATTEMPTS:
                log = self._state.logs / f"{member.name}.log"
                raise _start_failed(f"{member.name} does not start: {condition.reason}; its log is {log}")

    async def _gateway_ready(self) -> None:
        """Waits for each gateway's own `/ready`: it has seen the routes and reaches the ledger. A Redis that
        knows nobody yet makes them wait for the time of a lease."""
        probes = [gateway_probe(self._plan, settings, "/ready") for settings in self._gateways.values()]
        shared = self._plan.gateway.shared_limits
        lease_s = shared.lease_s if shared is not None else 0.0
        deadline = time.monotonic() + GATEWAY_READY_TIMEOUT_S + lease_s
        while not self._stop.is_set():
            try:
                for probe in probes:
                    await probe()
                return
            except ProbeFailed as failed:
                if time.monotonic() > deadline:
                    raise _start_failed(f"the gateway is up, but not ready: {failed}") from None
            await asyncio.sleep(0.03)

    def on_change(self, runner: Child | RemoteWatch) -> None:
        """A member came to another state."""
        member = next(member for member in self._members if member.runner is runner)
        member.since_ms = time.time_ns() // 1_000_000
        condition = member.condition
        log = _log.info if condition.state in ("ready", "starting", "stopped") else _log.warning
        log("%s is %s%s", member.name, condition.state, f": {condition.reason}" if condition.reason else "")
        self._write_out()
        if not self._stopping:
            after_s = time.monotonic() - self._began
            self._tell(Changed(member.name, condition.state, condition.reason, condition.restarts, after_s))
        self._sweep()
        self._changed.set()

    def _sweep(self) -> None:
        """Ends what an engine left behind whose keepers were killed; and what that leaves, a little later."""
        if sweep({member.condition.pid for member in self._members}):
            asyncio.get_running_loop().call_later(SWEEP_INTERVAL_S, self._sweep)

    def _write_out(self) -> None:
        """Publishes routes and status. A full disk must not end the supervision: it tries again shortly."""
        try:
            self._routes.set(self._verdicts())
            self._write_status()
        except OSError as error:
            _log.error("routes or status cannot be written, trying again: %s", error)
            asyncio.get_running_loop().call_later(WRITE_RETRY_S, self._write_out)

    def _verdicts(self) -> dict[str, Verdict]:
        return {
            member.engine.upstream_id: Verdict(
                member.condition.state == "ready",
                "" if member.condition.state == "ready" else member.condition.reason or "it is stopped",
            )
            for member in self._members
            if member.engine is not None
        }

    def _write_status(self) -> None:
        status = Status(
            version=sextant.__version__,
            pid=os.getpid(),
            started_ms=self._started_ms,
            url=self._plan.url,
            control_url=self._plan.control_url,
            processes=tuple(_status_of(member) for member in self._members),
            applied=self._applied,
        )
        write_private(self._state.status_file, msgspec.json.encode(status))

    async def _stop_all(self) -> None:
        """Stops kind by kind, the gateway before the engines so that requests under way can end."""
        self._stopping = True
        await self._door.close()
        await self._swap.close()
        hurrying = asyncio.ensure_future(self._hurry_up())
        for kind in STOP_ORDER:
            group = [member for member in self._members if member.kind == kind]
            for member in group:
                member.runner.stop()
            tasks = [member.task for member in group if member.task is not None]
            await asyncio.gather(*tasks, return_exceptions=True)
        hurrying.cancel()

    async def _hurry_up(self) -> None:
        """On a second signal: gateways cut what is under way, everything else is killed."""
        await self._hurry.wait()
        for member in self._members:
            if isinstance(member.runner, Child):
                gateway = member.kind == "gateway"
                member.runner.signal(signal.SIGTERM if gateway else signal.SIGKILL)


def _start_failed(message: str) -> SextantError:
    return SextantError(message, code="start_failed")


def _status_of(member: Member) -> ProcessStatus:
    condition = member.condition
    return ProcessStatus(
        name=member.name,
        kind=member.kind,
        state=condition.state,
        pid=condition.pid,
        restarts=condition.restarts,
        reason=condition.reason,
        since_ms=member.since_ms,
        model=member.engine.model_id if member.engine else "",
        upstream=member.engine.upstream_id if member.engine else "",
        file=member.engine.file if member.engine else "",
        serves=member.serves,
    )


def _without_status(reason: str) -> str:
    return reason.partition(": ")[2] or reason
