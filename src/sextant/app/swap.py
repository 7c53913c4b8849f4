"""Changing what a running deployment serves, without losing a request.

Flow 2 (deploy), its last step on one host. New engines start beside the old ones and each makes one real
token; then the route table is swapped whole, and the old engines end with the last request that needs them.
Until the swap a failure changes nothing: what was started ends, what served serves on. Neighbours:
`change.py` decides, `supervisor.py` owns the processes, `gateway_look.py` asks the gateways.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from sextant.app.change import Change, Started, what_changes
from sextant.app.events import Doing, Event, Tell
from sextant.app.first_token import first_token
from sextant.app.members import Member, OnChange, engine_member
from sextant.app.model_plan import EnginePlan, Placement, upstream_id_of
from sextant.app.placing import Ports, embedded_of, place_models
from sextant.app.plan import Plan, plan_models, warnings_of
from sextant.app.probe import ProbeFailed
from sextant.app.state import StateDir
from sextant.base.errors import Misconfigured, SextantError
from sextant.spec.document import Deployment
from sextant.spec.snapshot import ServedModel

TAKE_TIMEOUT_S = 10.0
"""Gateways look for a new table five times a second."""
BACK_DRAIN_S = 20.0
"""So long do requests keep an engine whose routes one gateway did not take, and others did."""
DRAIN_MAX_S = 600.0
"""Requests on an engine that was replaced may take so long to end; then they are cut off."""

_log = logging.getLogger(__name__)
Made = TypeVar("Made")


class Served(msgspec.Struct, frozen=True):
    """One model that is served, and what was found for it."""

    place: Placement
    engine: EnginePlan


class Now(msgspec.Struct, frozen=True):
    """What the deployment serves: the document, and for each of its models what runs."""

    document: Deployment
    served: tuple[Served, ...]


class Crew(Protocol):
    """What a swap needs of the supervisor."""

    @property
    def members(self) -> Sequence[Member]: ...

    @property
    def on_change(self) -> OnChange:
        """What runners of members call."""

    def enlist(self, member: Member) -> None:
        """Starts it; it does not serve yet."""

    async def dismiss(self, members: Sequence[Member]) -> None:
        """Stops them and forgets them."""

    def serve(self, models: tuple[ServedModel, ...]) -> int:
        """Publishes a route table of `models`; its version. Raises OSError."""

    async def changed(self) -> None:
        """Until the next change of any member."""

    async def took(self, version: int, timeout_s: float) -> bool:
        """Whether all gateways use that table."""

    async def drained(self, engines: Sequence[EnginePlan], timeout_s: float) -> bool:
        """Whether no request needs them any longer."""


class Swap:
    """One after another, changes of `now`. The supervisor makes one and keeps it."""

    def __init__(self, crew: Crew, state: StateDir, plan: Plan, ports: Ports) -> None:
        """`plan` is what serves; `ports` holds its engines' ports, and takes those of others."""
        served = zip(plan.places, plan.engines, strict=True)
        self.now = Now(plan.document, tuple(Served(place, engine) for place, engine in served))
        self._crew = crew
        self._state = state
        self._models = plan.models
        self._started = Started(plan.document, plan.flags)
        self._ports = ports
        self._one_at_a_time = asyncio.Lock()
        self._draining: set[asyncio.Task[None]] = set()

    async def change(self, document: Deployment, tell: Tell) -> tuple[str, ...]:
        """Serves `document` instead; what should be said of it. Raises SextantError, and then everything is
        as it was."""
        if self._one_at_a_time.locked():
            tell(Doing("Waiting for the change that is under way"))
        async with self._one_at_a_time:
            change = what_changes(self.now.document, document, self._started)
            fresh = await self._placed(document, change, tell)
            try:
                now, models = self._planned(document, change, fresh)
                await self._carry_out(now, models, change, tell)
            except BaseException:
                for place in fresh:
                    self._ports.release(place.port)
                raise
            return tuple(warnings_of(document, models))

    async def close(self) -> None:
        """Ends what is still draining, for a supervisor that stops everything itself."""
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)

    async def _placed(self, document: Deployment, change: Change, tell: Tell) -> list[Placement]:
        entries = [document.spec.served[number] for number in change.fresh]
        if not entries:
            return []
        loop = asyncio.get_running_loop()

        def tell_from_there(event: Event) -> None:
            loop.call_soon_threadsafe(tell, event)

        tell(Doing(f"Looking at {', '.join(entry.name for entry in entries)}"))
        embedded = embedded_of(document)
        try:
            return await _aside(
                lambda: place_models(entries, self._state, tell_from_there, self._ports, embedded=embedded)
            )
        except Misconfigured as error:
            if error.code != "model_too_large":
                raise
            raise Misconfigured(
                f"{error.message}; what runs now keeps its memory until the new one serves: where both do "
                f"not fit, run `sextant down` and then `sextant up` with this document",
                code=error.code,
                field=error.field,
            ) from None

    def _planned(
        self, document: Deployment, change: Change, fresh: Sequence[Placement]
    ) -> tuple[Now, tuple[ServedModel, ...]]:
        taken = {member.engine.upstream_id for member in self._crew.members if member.engine is not None}
        kept = {new: self.now.served[old] for new, old in change.kept}
        places: list[tuple[Placement, str]] = []
        new = dict(zip(change.fresh, fresh, strict=True))
        for number, entry in enumerate(document.spec.served):
            if number in kept:
                places.append((kept[number].place, kept[number].engine.upstream_id))
                continue
            upstream_id = upstream_id_of(entry.name, taken)
            taken.add(upstream_id)
            places.append((new[number], upstream_id))
        models, engines = plan_models(document, self._state, places)
        served = tuple(
            kept.get(number) or Served(place, engine)
            for number, ((place, _), engine) in enumerate(zip(places, engines, strict=True))
        )
        return Now(document, served), models

    async def _carry_out(self, now: Now, models: tuple[ServedModel, ...], change: Change, tell: Tell) -> None:
        started = [
            engine_member(now.served[number].engine, self._state, self._crew.on_change)
            for number in change.fresh
        ]
        try:
            for member in started:
                tell(Doing(f"Starting {member.name} beside what serves"))
                self._crew.enlist(member)
            for member in started:
                await self._ready(member)
                tell(Doing(f"{member.name} is up and makes a token"))
            for number, member in zip(change.fresh, started, strict=True):
                await _proven(models[number], member)
            await self._switch(models, [now.served[number].engine for number in change.fresh], tell)
        except BaseException:
            await asyncio.shield(self._crew.dismiss(started))
            raise
        retired = [self.now.served[number] for number in change.gone]
        self.now, self._models = now, models
        if retired:
            task = asyncio.create_task(self._retire(retired, tell))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def _ready(self, member: Member) -> None:
        """Until it can be asked. Raises SextantError when it ends, or answers wrongly, before it ever was."""
        while member.condition.state != "ready":
            condition = member.condition
            ended = member.task is not None and member.task.done()
            if ended or condition.state in ("waiting", "unwell"):
                log = self._state.logs / f"{member.name}.log"
                raise SextantError(
                    f"{member.name} does not start: {condition.reason or 'it was stopped'}; what served "
                    f"before serves on; its log is {log}",
                    code="engine_start_failed",
                )
            await self._crew.changed()

    async def _switch(self, models: tuple[ServedModel, ...], fresh: Sequence[EnginePlan], tell: Tell) -> None:
        """All gateways to `models`; where one does not come along, all back, and `fresh` needed by none."""
        began_s = time.monotonic()
        try:
            version = self._crew.serve(models)
        except OSError as error:
            raise SextantError(
                f"the new routes cannot be written: {error.strerror}; the old ones stay", code="disk_full"
            ) from None
        taken = False
        try:
            taken = await self._crew.took(version, TAKE_TIMEOUT_S)
        finally:
            if not taken:
                version = self._crew.serve(self._models)
        if taken:
            tell(Doing(f"Switched in {1000 * (time.monotonic() - began_s):.0f} ms"))
            return
        await self._crew.took(version, TAKE_TIMEOUT_S)
        await self._crew.drained(fresh, BACK_DRAIN_S)  # other gateways may have sent requests there
        raise SextantError(
            f"a gateway did not take the new routes within {TAKE_TIMEOUT_S:g} s, so the old ones are back; "
            f"look at {self._state.logs / 'gateway.log'}",
            code="routes_not_taken",
        )

    async def _retire(self, retired: Sequence[Served], tell: Tell) -> None:
        """Ends engines that no table names any longer, with their last request or after `DRAIN_MAX_S`."""
        engines = [one.engine for one in retired]
        ids = {engine.upstream_id for engine in engines}
        began_s = time.monotonic()
        if not await self._crew.drained(engines, DRAIN_MAX_S):
            _log.warning("requests on %s did not end within %g s", ", ".join(sorted(ids)), DRAIN_MAX_S)
        await self._crew.dismiss(
            [one for one in self._crew.members if one.engine is not None and one.engine.upstream_id in ids]
        )
        for one in retired:
            self._ports.release(one.place.port)
        _log.info("%s ended %.2f s after the switch", ", ".join(sorted(ids)), time.monotonic() - began_s)


async def _proven(model: ServedModel, member: Member) -> None:
    """Returns once its replica has made a token. Raises SextantError."""
    assert member.engine is not None
    (upstream,) = (one for one in model.upstreams if one.id == member.engine.upstream_id)
    try:
        await first_token(model, upstream, peer=member.peer)
    except ProbeFailed as failed:
        raise SextantError(
            f"{member.name} started, but serves nothing: {failed}; what served before serves on",
            code="engine_serves_nothing",
        ) from None


async def _aside(work: Callable[[], Made]) -> Made:
    """What `work` returns or raises, done in a thread that holds up no stop: a download may take an hour."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Made] = loop.create_future()

    def settle(made: Made | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(made)  # type: ignore[arg-type]

    def run() -> None:
        try:
            made = work()
        except BaseException as error:  # noqa: BLE001 - handed to who waits
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, made, None)

    threading.Thread(target=run, name="placing", daemon=True).start()
    return await done
