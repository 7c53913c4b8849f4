"""Metrics of the sites that send their usage here: how long each was not heard of, and what is held of it.

When a site was last heard of is kept in memory: its forwarder asks at least once a minute while it has a
line, also when it has nothing to send. After a start of this process it is the arrival of the last row that
counts, until the site asks again. Neighbours: `sites.py`, which takes the usage; `metrics.py`.
"""

from __future__ import annotations

from sextant.base.errors import LedgerUnavailable, Misconfigured
from sextant.control.office import Office
from sextant.store.accounts_database import Page
from sextant.store.ledger_reading import ledger_view
from sextant.telemetry.table import Registry

SITES_MOST = 1000
"""Sites with metrics of their own, by id: each is a label. Those beyond have none."""


def site_metrics(office: Office) -> bytes:
    """The Prometheus text of sites; empty where there are none. Without a readable ledger it says only what
    the accounts know."""
    sites = office.accounts.list_sites(Page(SITES_MOST))
    if not sites:
        return b""
    registry = Registry()
    arrived, held = _ledger(office)
    for site in sites:
        last_ms = max(office.site_heard_ms.get(site.id, 0), arrived.get(site.id, site.created_ms))
        age_s = max(0, office.now_ms() - last_ms) / 1000
        registry["sextant_site_last_contact_age_seconds"].labels(site.id).set(age_s)
        if held is not None:
            registry["sextant_site_held_rows"].labels(site.id).set(held.get(site.id, 0))
    return registry.exposition()


def _ledger(office: Office) -> tuple[dict[str, int], dict[str, int] | None]:
    """When rows last came from each site, and how many are held of it; None where that cannot be read."""
    try:
        with ledger_view(office.settings.ledger_db) as view:
            arrived = view.query("SELECT site_id, arrived_ms FROM site_end")
            held = view.query(
                "SELECT site_id, count(*) FROM site_usage WHERE booked_tenant_id = '' GROUP BY site_id"
            )
    except (LedgerUnavailable, Misconfigured):
        return {}, None
    return dict(arrived), dict(held)
