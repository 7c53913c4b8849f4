"""The admin API: keys, models, usage and status of one deployment. Every path needs the admin credential.

Control is the one writer of `accounts.db`; after each change it publishes the policy that gateways read.
Neighbours: `door.py` (the credential check in front of everything), `sextant.store` (accounts, usage report).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

import sextant
from sextant.base.errors import BadRequest, NotFound, Permanent, SextantError
from sextant.control.door import AdminDoor
from sextant.control.metrics import engine_metrics, exposition
from sextant.control.settings import ControlSettings, read_status
from sextant.spec.snapshot import RouteTable
from sextant.store.accounts import DEFAULT_TENANT, Accounts, publish
from sextant.store.accounts_keys import KeyScope
from sextant.store.usage_report import DAY_MS, usage_report

USAGE_DAYS_MAX = 366


class NewKey(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=200)] = "unnamed"
    tenant_id: str = DEFAULT_TENANT
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = None


def build_app(settings: ControlSettings, accounts: Accounts) -> Any:
    """The ASGI app. `accounts` is migrated already and written by this process alone."""
    app = FastAPI(
        title="Sextant admin API",
        version=sextant.__version__,
        docs_url=None,  # the page would load scripts from elsewhere; /openapi.json is there, behind the door
        redoc_url=None,
    )
    _add_error_answers(app)
    _add_keys(app, settings, accounts)
    _add_reports(app, settings)
    return AdminDoor(app, accounts.verify_service_token)


def _add_keys(app: FastAPI, settings: ControlSettings, accounts: Accounts) -> None:
    # These run in the event loop: the accounts file has one connection, used by one request at a time.
    def publish_policy() -> None:
        publish(accounts.policy_snapshot(), settings.policy_file)

    @app.get("/v1/keys")
    async def list_keys(with_revoked: bool = False) -> Response:
        """All keys, without their secrets."""
        return _json({"keys": accounts.list_keys(with_revoked=with_revoked)})

    @app.post("/v1/keys", status_code=201)
    async def create_key(new: NewKey) -> Response:
        """Makes a key. `key` in the answer is shown here and nowhere again."""
        expires_ms = 0 if new.expires_in_days is None else _now_ms() + new.expires_in_days * DAY_MS
        record, secret = accounts.create_key(new.tenant_id, new.name, KeyScope(expires_ms=expires_ms))
        publish_policy()
        return _json({**msgspec.to_builtins(record), "key": secret}, status=201)

    @app.delete("/v1/keys/{key_id}")
    async def revoke_key(key_id: str) -> Response:
        """Revokes a key; gateways refuse it within a second."""
        record = accounts.revoke_key(key_id)
        publish_policy()
        return _json(record)


def _add_reports(app: FastAPI, settings: ControlSettings) -> None:
    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok", "version": sextant.__version__})

    @app.get("/v1/status")
    async def status() -> Response:
        """The deployment as the supervisor sees it."""
        found = read_status(Path(settings.status_file))
        if found is None:
            raise NotFound("there is no status: no supervisor writes one here")
        return _json({"ready": found.ready, **msgspec.to_builtins(found)})

    @app.get("/v1/models")
    async def models() -> Response:
        """The models that the gateway serves, with their replicas and their files on this machine."""
        served = [msgspec.to_builtins(model) for model in _routes(settings).models]
        return _json({"models": [{**one, "file": settings.model_files.get(one["id"], "")} for one in served]})

    @app.get("/v1/usage")
    async def usage(
        since_ms: Annotated[int, Query(ge=0)] | None = None,
        until_ms: Annotated[int, Query(ge=0)] | None = None,
        key_id: str | None = None,
    ) -> Response:
        """Totals by day, key and model; without `since_ms`, of the last 30 days."""
        until = _now_ms() + 1 if until_ms is None else until_ms
        since = max(0, until - 30 * DAY_MS) if since_ms is None else since_ms
        if not since < until <= since + USAGE_DAYS_MAX * DAY_MS:
            raise BadRequest(
                f"since_ms {since} to until_ms {until} is no span of 1 ms to {USAGE_DAYS_MAX} days",
                field="since_ms",
            )
        totals = await asyncio.to_thread(
            usage_report, settings.ledger_db, since_ms=since, until_ms=until, key_id=key_id
        )
        return _json({"since_ms": since, "until_ms": until, "totals": totals})

    @app.get("/metrics")
    async def metrics() -> Response:
        """The supervisor's view of engines and restarts, and the engines' own metrics, for Prometheus."""
        body = exposition(read_status(Path(settings.status_file))) + engine_metrics(settings)
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_error_answers(app: FastAPI) -> None:
    @app.exception_handler(SextantError)
    async def domain_error(_request: Request, error: SextantError) -> Response:
        status = 400 if isinstance(error, Permanent) else 503
        return _error(404 if isinstance(error, NotFound) else status, error.code, error.message, error.field)

    @app.exception_handler(RequestValidationError)
    async def wrong_input(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return _error(422, "invalid_request", f"{field or 'body'}: {first['msg']}", field or None)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        said = f"{request.method} {request.url.path}: {error.detail}"
        return _error(error.status_code, "not_found" if error.status_code == 404 else "invalid_request", said)


def _routes(settings: ControlSettings) -> RouteTable:
    try:
        return msgspec.json.decode(Path(settings.routes_file).read_bytes(), type=RouteTable)
    except (OSError, msgspec.DecodeError) as error:
        raise NotFound(f"there is no route table: {error}") from None


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def _error(status: int, code: str, message: str, field: str | None = None) -> Response:
    return JSONResponse({"error": {"message": message, "code": code, "param": field}}, status_code=status)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
