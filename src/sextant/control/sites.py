"""Sites in the admin API: who may send usage here, whose it is, and the usage as it comes.

A batch is acknowledged when it is durable in the books; sending it again changes nothing. Usage of a tenant
that the site's record does not name is held, shown, and booked as soon as the record names it.
Neighbours: `sextant.store.books_sites` (what a batch does), `sextant.app.forwarding` (who sends).
"""

from __future__ import annotations

import time
import zlib
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Request, Response

from sextant.base.errors import BodyTooLarge
from sextant.control.access import Allowed, Needs
from sextant.control.answers import BODY_BYTES_MAX, Body, WrongBody, json_answer, listing, more_than, paged
from sextant.control.office import Office
from sextant.control.openapi import Listing, tells
from sextant.control.sites_pace import PacedSite
from sextant.spec.ledger_wire import Delivery
from sextant.spec.policy import NANO
from sextant.spec.sites import ROWS_MAX, SiteAnswer, SiteBatch, SiteRow
from sextant.store.accounts_database import Page
from sextant.store.accounts_sites import SiteRecord
from sextant.store.ledger_reading import LedgerView, ledger_view

_ROW = ", ".join(field.name for field in msgspec.structs.fields(SiteRow))
COST_NANO_MAX = 2**63 - 1
ROWS_COUNTED_MAX = 10_000
"""Rows of one site that are looked at to answer a question: the books hold millions."""
_GZIP = 16 + zlib.MAX_WBITS


class NewSite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A site to make. `tenants` says which tenant here each of its tenants is."""

    id: str
    name: str = ""
    tenants: dict[str, str] = {}


class SiteChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tenant here each of the site's is, all of them. What was held for one of them is booked."""

    tenants: dict[str, str]


class SiteMade(SiteRecord, frozen=True, kw_only=True):
    """`credential` is the secret, shown only now."""

    credential: str


class HeldUsage(msgspec.Struct, frozen=True):
    """Usage of a site's tenant that is nobody here yet; of a site that has more than 10,000 such rows, those
    alone that came to be looked at."""

    tenant_id: str
    currency: str
    rows: int
    tokens: int
    cost_nano: int


class SiteShown(SiteRecord, frozen=True, kw_only=True):
    """A site and what has come from it. `through` is its number of the last row up to which all are here;
    `arrived_ms` is when that came, 0 for never. `rows` is counted up to 10,000; beyond, it is what the
    site's numbers say, and more only where the site was restored from a backup."""

    through: int
    arrived_ms: int
    rows: int
    held: tuple[HeldUsage, ...]


class UsageBody(Body[SiteBatch]):
    """A batch as JSON, packed with gzip or plain; bounded when unpacked."""

    async def read(self, request: Request) -> bytes:
        packed = await super().read(request)
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding == "identity":
            return packed
        if encoding != "gzip":
            raise WrongBody(f"Content-Encoding {encoding[:40]!r} is not accepted; send gzip or none")
        unpacker = zlib.decompressobj(_GZIP)
        try:
            data = unpacker.decompress(packed, BODY_BYTES_MAX + 1)
        except zlib.error as error:
            raise WrongBody(f"the body is no gzip: {error}") from None
        if len(data) > BODY_BYTES_MAX:
            raise BodyTooLarge(f"the body has more than {BODY_BYTES_MAX} bytes when it is unpacked")
        if not unpacker.eof:
            raise WrongBody("the body's gzip ends too early")
        return data


ReadSites = Annotated[Allowed, Depends(Needs("read", "deployment", deployment=True))]
WriteSites = Annotated[Allowed, Depends(Needs("write", "deployment", deployment=True))]
Paging = Annotated[Page, Depends(paged)]
SiteBody = Annotated[NewSite, Depends(Body(NewSite))]
SiteChangeBody = Annotated[SiteChange, Depends(Body(SiteChange))]


def add_sites(app: FastAPI, office: Office) -> None:
    """Routes of sites."""
    of_site, of_body = Depends(PacedSite(time.monotonic)), Depends(UsageBody(SiteBatch))

    @app.get("/v1/sites")
    @tells(Listing("sites", SiteShown))
    def list_sites(_allowed: ReadSites, page: Paging) -> Response:
        """Sites by id, and what has come from each."""
        found = office.accounts.list_sites(more_than(page))
        with ledger_view(office.settings.ledger_db) as view:
            return listing("sites", [_shown(view, one) for one in found], page)

    @app.post("/v1/sites", status_code=201)
    @tells(SiteMade)
    def create_site(allowed: WriteSites, new: SiteBody) -> Response:
        """Makes a site. `credential` in the answer is shown here and nowhere again."""
        record, secret = office.by(allowed).create_site(new.id, new.name, new.tenants)
        return json_answer(SiteMade(**msgspec.structs.asdict(record), credential=secret), 201)

    @app.get("/v1/sites/{site_id}")
    @tells(SiteShown)
    def get_site(site_id: str, _allowed: ReadSites) -> Response:
        """One site."""
        return _told(office, office.accounts.site(site_id))

    @app.patch("/v1/sites/{site_id}")
    @tells(SiteShown)
    def map_site(site_id: str, allowed: WriteSites, change: SiteChangeBody) -> Response:
        """Says whose the site's usage is, and books what was held for those."""
        record = office.by(allowed).map_site(site_id, change.tenants)
        _release(office, record)
        return _told(office, record)

    @app.post("/v1/sites/{site_id}/credential", status_code=201)
    @tells(SiteMade)
    def renew(site_id: str, allowed: WriteSites) -> Response:
        """Makes a new credential; the one before ends now."""
        record, secret = office.by(allowed).renew_site(site_id)
        return json_answer(SiteMade(**msgspec.structs.asdict(record), credential=secret), 201)

    @app.delete("/v1/sites/{site_id}/credential")
    @tells(SiteShown)
    def revoke(site_id: str, allowed: WriteSites) -> Response:
        """Takes the site's credential away at once. What it has sent stays."""
        return _told(office, office.by(allowed).revoke_site(site_id))

    @app.post("/v1/sites/{site_id}/usage")
    @tells(SiteAnswer)
    def take_usage(site_id: str, _allowed: Allowed = of_site, batch: SiteBatch = of_body) -> Response:
        """Takes rows of the site's ledger, each once however often it comes. Durable when it answers."""
        tenants = office.accounts.site(site_id).tenants
        office.site_heard_ms[site_id] = office.now_ms()
        delivery = Delivery(site_id, office.now_ms(), batch.after_id, batch.rows, tenants)
        return json_answer(office.books.deliver(delivery))


def _release(office: Office, record: SiteRecord) -> None:
    """Books what was held for tenants that the record names. An end half-way leaves the rest held; the same
    change again goes on."""
    for theirs in record.tenants:
        while rows := _held_rows(office, record.id, theirs):
            delivery = Delivery(record.id, office.now_ms(), "", rows, record.tenants, follows=False)
            if not office.books.deliver(delivery).booked:
                break  # somebody else has just booked them


def _held_rows(office: Office, site_id: str, tenant_id: str) -> list[SiteRow]:
    """The next rows of the site's tenant that are booked as nobody's."""
    with ledger_view(office.settings.ledger_db) as view:
        found = view.query(
            f"SELECT {_ROW} FROM site_usage WHERE site_id = :site AND tenant_id = :tenant "
            f"AND booked_tenant_id = '' ORDER BY number LIMIT {ROWS_MAX}",
            site=site_id,
            tenant=tenant_id,
        )
    named = [dict(zip(SiteRow.__struct_fields__, values, strict=True)) for values in found]
    return msgspec.convert(named, list[SiteRow], strict=False)


def _told(office: Office, record: SiteRecord) -> Response:
    with ledger_view(office.settings.ledger_db) as view:
        return json_answer(_shown(view, record))


def _shown(view: LedgerView, record: SiteRecord) -> SiteShown:
    end = view.query("SELECT number, arrived_ms FROM site_end WHERE site_id = :site", site=record.id)
    some = f"LIMIT {ROWS_COUNTED_MAX + 1}"
    [(rows,)] = view.query(
        f"SELECT count(*) FROM (SELECT 1 FROM site_usage WHERE site_id = :site {some}) AS some",
        site=record.id,
    )
    held = view.query(
        "SELECT tenant_id, currency, count(*), sum(input_tokens + output_tokens), "
        f"sum(cost_nano / {NANO}), sum(cost_nano % {NANO}) FROM "
        f"(SELECT * FROM site_usage WHERE site_id = :site AND booked_tenant_id = '' {some}) AS some "
        "GROUP BY tenant_id, currency ORDER BY tenant_id, currency",
        site=record.id,
    )
    through, arrived_ms = end[0] if end else (0, 0)
    return SiteShown(
        **msgspec.structs.asdict(record),
        through=through,
        arrived_ms=arrived_ms,
        rows=rows if rows <= ROWS_COUNTED_MAX else max(rows, through),
        held=tuple(_held(values) for values in held),
    )


def _held(values: tuple[Any, ...]) -> HeldUsage:
    """Nobody has looked at held amounts: their sum may be more than an integer of a database, or of JSON."""
    tenant_id, currency, rows, tokens, units, rest_nano = values
    return HeldUsage(tenant_id, currency, rows, tokens, min(units * NANO + rest_nano, COST_NANO_MAX))
