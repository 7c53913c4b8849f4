"""The frame of `sextant up`: state directory, lock, ports, first start, then the supervisor until it is told
to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator

import msgspec

from sextant.app.bootstrap import FirstRun, bootstrap, forget_first_run, store_id
from sextant.app.events import Event, Serving, Stopped, Tell, Warned
from sextant.app.orphans import adopting
from sextant.app.placing import Ports, embedded_of, place_models
from sextant.app.plan import Overrides, Plan, listeners, make_plan
from sextant.app.state import StateDir, check_port_free
from sextant.app.stores import databases_of, note_store
from sextant.app.supervisor import Supervisor
from sextant.base.errors import Misconfigured
from sextant.security.opening import open_hsm
from sextant.spec.document import Deployment
from sextant.spec.stores import StoreSettings
from sextant.store.upgrade import bring_up_to_date
from sextant.telemetry.logs import JsonFormatter


def run_up(document: Deployment, state: StateDir, overrides: Overrides, tell: Tell) -> None:
    """Serves `document` until SIGTERM, SIGINT or SIGHUP. Raises SextantError when the start fails."""
    if sys.platform != "linux":
        raise Misconfigured(f"`sextant up` runs on Linux, not on {sys.platform}; run it in a Linux container")
    state.prepare()
    with state.lock(), contextlib.ExitStack() as stack, _own_log(state):
        state.clear_run()
        at = listeners(document, overrides)
        check_port_free(at.host, at.port, "--port")
        check_port_free(at.control_host, at.control_port, "--control-port")
        for warning in open_hsm(document.spec):
            tell(Warned(warning))
        ports = stack.enter_context(contextlib.closing(Ports()))
        places = place_models(document.spec.served, state, tell, ports, embedded=embedded_of(document))
        plan = make_plan(document, state, overrides, places)
        for warning in plan.warnings:
            tell(Warned(warning))
        note_store(state, plan.store)
        _bring_up_to_date(state, plan.store, tell)
        first_run = bootstrap(state, plan.store)
        plan = _of_its_books(plan, state)
        try:
            asyncio.run(_supervise(plan, state, tell, ports, first_run))
        finally:
            state.clear_run()
        tell(Stopped())


def _of_its_books(plan: Plan, state: StateDir) -> Plan:
    """`plan`, whose gateways share limits in Redis only with those of the same books."""
    shared = plan.gateway.shared_limits
    if shared is None:
        return plan
    named = msgspec.structs.replace(shared, store_id=store_id(state, plan.store))
    gateway = msgspec.structs.replace(plan.gateway, shared_limits=named)
    return msgspec.structs.replace(plan, gateway=gateway)


def _bring_up_to_date(state: StateDir, store: StoreSettings, tell: Tell) -> None:
    """Before anything opens a database: what an older Sextant wrote is backed up and migrated."""
    done = bring_up_to_date(databases_of(state, store))
    if done is not None:
        tell(
            Warned(
                f"the databases came from an older Sextant and were migrated (accounts "
                f"{done.before.accounts} → {done.after.accounts}, ledger {done.before.ledger} → "
                f"{done.after.ledger}); the state before is in {done.backup}"
            )
        )


async def _supervise(
    plan: Plan, state: StateDir, tell: Tell, ports: Ports, first_run: FirstRun | None
) -> None:
    def tell_and_forget(event: Event) -> None:
        tell(event)
        if isinstance(event, Serving):
            forget_first_run(state)

    with adopting():
        await Supervisor(plan, state, tell=tell_and_forget, ports=ports, first_run=first_run).run()


@contextlib.contextmanager
def _own_log(state: StateDir) -> Iterator[None]:
    """The supervisor's own log, beside those of its children."""
    path = state.logs / "supervisor.log"
    path.touch(mode=0o600)
    handler = logging.FileHandler(path)
    handler.setFormatter(JsonFormatter("supervisor"))
    logger = logging.getLogger("sextant.app")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
