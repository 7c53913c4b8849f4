"""The admin API of one deployment: who may use it, what it may cost, what was used. One file a noun.

Every route declares the permission that it needs (`access.Needs`); after each change control publishes the
policy that gateways read. Neighbours: `door.py` (the credential check in front of everything),
`sextant.store` (accounts, books).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Response

import sextant
from sextant.base.errors import NotFound
from sextant.control.access import Allowed, Needs
from sextant.control.agreements import add_agreements, publish_agreement
from sextant.control.answers import add_error_answers, json_answer
from sextant.control.budgets import add_budgets, watch
from sextant.control.door import AdminDoor
from sextant.control.invitations import add_invitations
from sextant.control.keys import add_keys
from sextant.control.me import add_me
from sextant.control.metrics import engine_metrics, exposition, follow_metrics, forward_metrics
from sextant.control.money import add_money
from sextant.control.office import Office
from sextant.control.openapi import Files, Whole, describe, tells
from sextant.control.people import add_grants, add_people
from sextant.control.prices import add_prices
from sextant.control.reports import add_invoices, add_usage
from sextant.control.sessions import add_sessions
from sextant.control.settings import Applied, ControlSettings, ProcessStatus, read_status
from sextant.control.signup import add_sign_ups, settle_credits
from sextant.control.sites import add_sites
from sextant.control.sites_metrics import site_metrics
from sextant.control.tenant_models import add_tenant_models
from sextant.control.tenants import add_projects, add_tenants
from sextant.spec.snapshot import RouteTable, ServedModel
from sextant.store.accounts import Accounts

_NOUNS: tuple[Callable[[FastAPI, Office], None], ...] = (
    add_tenants,
    add_tenant_models,
    add_projects,
    add_keys,
    add_prices,
    add_money,
    add_usage,
    add_invoices,
    add_budgets,
    add_sites,
    add_people,
    add_grants,
    add_invitations,
    add_sessions,
    add_me,
    add_sign_ups,
    add_agreements,
)


class Health(msgspec.Struct, frozen=True):
    status: str
    version: str


class StatusShown(msgspec.Struct, frozen=True):
    """The fields mean what they mean in `Status`; `ready`: all processes are."""

    ready: bool
    version: str
    pid: int
    started_ms: int
    url: str
    control_url: str
    processes: tuple[ProcessStatus, ...]
    applied: Applied | None = None


class ModelShown(ServedModel, frozen=True):
    """A model that the gateway serves; `file` is empty where it is not on this machine."""

    file: str = ""


SignedIn = Annotated[Allowed, Depends(Needs())]
ReadDeployment = Annotated[Allowed, Depends(Needs("read", "deployment", deployment=True))]


def build_app(settings: ControlSettings, accounts: Accounts) -> AdminDoor:
    """The ASGI app. `accounts` is migrated already. Raises Misconfigured (the agreement's file)."""
    publish_agreement(settings.portal, accounts)
    office = Office(settings, accounts)
    app = FastAPI(
        title="Sextant admin API",
        version=sextant.__version__,
        docs_url=None,  # the page would load scripts from elsewhere; /openapi.json is there, behind the door
        redoc_url=None,
        lifespan=lambda _app: _alongside(office),
    )
    add_error_answers(app)
    for add in _NOUNS:
        add(app, office)
    if settings.oidc is not None:
        from sextant.control.oidc import add_oidc  # its libraries cost a start that needs none of them

        add_oidc(app, office, settings.oidc)
    _add_deployment(app, office)
    app.openapi = describe(app)  # type: ignore[method-assign]
    return AdminDoor(app, accounts, secure=office.secure, fenced_host=settings.portal.fenced_host)


@contextlib.asynccontextmanager
async def _alongside(office: Office) -> AsyncIterator[None]:
    """What runs as long as control does."""
    jobs = (office.publisher.follow(), watch(office), settle_credits(office))
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _add_deployment(app: FastAPI, office: Office) -> None:
    settings = office.settings

    @app.get("/health")
    @tells(Health)
    def health(_allowed: SignedIn) -> Response:
        return json_answer(Health("ok", sextant.__version__))

    @app.get("/v1/status")
    @tells(StatusShown)
    def status(_allowed: ReadDeployment) -> Response:
        """The deployment as the supervisor sees it."""
        found = read_status(Path(settings.status_file))
        if found is None:
            raise NotFound("there is no status: no supervisor writes one here")
        return json_answer(StatusShown(ready=found.ready, **msgspec.structs.asdict(found)))

    @app.get("/v1/models")
    @tells(Whole("models", ModelShown))
    def models(_allowed: ReadDeployment) -> Response:
        """The models that the gateway serves, with their replicas and their files on this machine."""
        found = read_status(Path(settings.status_file))
        files = {one.model: one.file for one in found.processes if one.file} if found is not None else {}
        served = [
            ModelShown(**msgspec.structs.asdict(model), file=files.get(model.id, ""))
            for model in _routes(settings).models
        ]
        return json_answer({"models": served})

    @app.get("/metrics")
    @tells(Files(("text/plain",)))
    def metrics(_allowed: ReadDeployment) -> Response:
        """The supervisor's view of engines and restarts, and the engines' own metrics, for Prometheus."""
        found = read_status(Path(settings.status_file))
        body = exposition(found) + engine_metrics(settings) + follow_metrics(settings, found)
        body += forward_metrics(settings, now_ms=office.now_ms()) + site_metrics(office)
        body += office.sign_ups.exposition()
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


def _routes(settings: ControlSettings) -> RouteTable:
    try:
        return msgspec.json.decode(Path(settings.routes_file).read_bytes(), type=RouteTable)
    except (OSError, msgspec.DecodeError) as error:
        raise NotFound(f"there is no route table: {error}") from None
