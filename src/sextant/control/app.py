"""The admin API of one deployment: who may use it, what it may cost, what was used. One file a noun.

Every route declares the permission that it needs (`access.Needs`); after each change control publishes the
policy that gateways read. Neighbours: `door.py` (the credential check in front of everything),
`sextant.store` (accounts, usage report).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Query, Response

import sextant
from sextant.base.errors import BadRequest, NotFound
from sextant.control.access import Allowed, Needs
from sextant.control.answers import add_error_answers, json_answer
from sextant.control.door import AdminDoor
from sextant.control.keys import add_keys
from sextant.control.metrics import engine_metrics, exposition
from sextant.control.office import Office
from sextant.control.oidc import add_oidc
from sextant.control.people import add_grants, add_people
from sextant.control.prices import add_prices
from sextant.control.sessions import add_sessions
from sextant.control.settings import ControlSettings, read_status
from sextant.control.tenants import add_projects, add_tenants
from sextant.spec.snapshot import RouteTable
from sextant.store.accounts import Accounts
from sextant.store.usage_report import DAY_MS, UsageTotal, usage_report

USAGE_DAYS_MAX = 366

SignedIn = Annotated[Allowed, Depends(Needs())]
ReadDeployment = Annotated[Allowed, Depends(Needs("read", "deployment", deployment=True))]
ReadUsage = Annotated[Allowed, Depends(Needs("read", "usage"))]
Moment = Annotated[int | None, Query(ge=0)]


def build_app(settings: ControlSettings, accounts: Accounts) -> AdminDoor:
    """The ASGI app. `accounts` is migrated already."""
    office = Office(settings, accounts)
    app = FastAPI(
        title="Sextant admin API",
        version=sextant.__version__,
        docs_url=None,  # the page would load scripts from elsewhere; /openapi.json is there, behind the door
        redoc_url=None,
        lifespan=lambda _app: _alongside(office),
    )
    add_error_answers(app)
    for add in (
        add_tenants,
        add_projects,
        add_keys,
        add_prices,
        add_people,
        add_grants,
        add_sessions,
        add_oidc,
    ):
        add(app, office)
    _add_reports(app, office)
    return AdminDoor(app, accounts, secure=office.secure)


@contextlib.asynccontextmanager
async def _alongside(office: Office) -> AsyncIterator[None]:
    """What runs as long as control does."""
    following = asyncio.create_task(office.publisher.follow())
    try:
        yield
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


def _add_reports(app: FastAPI, office: Office) -> None:
    settings = office.settings

    @app.get("/health")
    def health(_allowed: SignedIn) -> Response:
        return json_answer({"status": "ok", "version": sextant.__version__})

    @app.get("/v1/status")
    def status(_allowed: ReadDeployment) -> Response:
        """The deployment as the supervisor sees it."""
        found = read_status(Path(settings.status_file))
        if found is None:
            raise NotFound("there is no status: no supervisor writes one here")
        return json_answer({"ready": found.ready, **msgspec.to_builtins(found)})

    @app.get("/v1/models")
    def models(_allowed: ReadDeployment) -> Response:
        """The models that the gateway serves, with their replicas and their files on this machine."""
        served = [msgspec.to_builtins(model) for model in _routes(settings).models]
        files = settings.model_files
        return json_answer({"models": [{**one, "file": files.get(one["id"], "")} for one in served]})

    @app.get("/v1/usage")
    def usage(
        allowed: ReadUsage, since_ms: Moment = None, until_ms: Moment = None, key_id: str | None = None
    ) -> Response:
        """Totals by day, key and model; without `since_ms`, of the last 30 days."""
        until = office.now_ms() + 1 if until_ms is None else until_ms
        since = max(0, until - 30 * DAY_MS) if since_ms is None else since_ms
        if not since < until <= since + USAGE_DAYS_MAX * DAY_MS:
            raise BadRequest(
                f"since_ms {since} to until_ms {until} is no span of 1 ms to {USAGE_DAYS_MAX} days",
                field="since_ms",
            )
        totals: list[UsageTotal] = []
        for tenant_id in [None] if allowed.tenants is None else sorted(allowed.tenants):
            totals += usage_report(
                settings.ledger_db, since_ms=since, until_ms=until, tenant_id=tenant_id, key_id=key_id
            )
        return json_answer({"since_ms": since, "until_ms": until, "totals": totals})

    @app.get("/metrics")
    def metrics(_allowed: ReadDeployment) -> Response:
        """The supervisor's view of engines and restarts, and the engines' own metrics, for Prometheus."""
        body = exposition(read_status(Path(settings.status_file))) + engine_metrics(settings)
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


def _routes(settings: ControlSettings) -> RouteTable:
    try:
        return msgspec.json.decode(Path(settings.routes_file).read_bytes(), type=RouteTable)
    except (OSError, msgspec.DecodeError) as error:
        raise NotFound(f"there is no route table: {error}") from None
