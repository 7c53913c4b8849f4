"""The control process: `python -m sextant.app.control_process --settings run/control.json`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
import uvicorn

from sextant.app.entry import run_entry
from sextant.app.stores import located
from sextant.app.tls import server_context
from sextant.base.errors import Misconfigured
from sextant.console import ConsoleSettings, Portal
from sextant.control.app import build_app
from sextant.control.door import AdminDoor, cookie_name
from sextant.control.settings import ControlSettings, read_control_settings
from sextant.store.accounts import Accounts, publish

STOP_GRACE_S = 3


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sextant.app.control_process")
    parser.add_argument("--settings", required=True, type=Path)
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args(argv)
    return run_entry(
        "control", lambda: run_control(read_control_settings(given.settings)), log_level=given.log_level
    )


def run_control(settings: ControlSettings) -> None:
    """Serves until SIGTERM or SIGINT; the supervisor has migrated the accounts. Raises Misconfigured."""
    settings = with_databases(settings)
    accounts = Accounts(settings.accounts_db)
    try:
        publish(accounts.policy_snapshot(), settings.policy_file)  # a crash may have come between the two
        config = listener(with_portal(build_app(settings, accounts), settings), settings)
        if settings.tls is not None:
            config.ssl = server_context(settings.tls)
        server = uvicorn.Server(config)
        try:
            server.run()
        except SystemExit:
            server.started = False
        if not server.started:
            raise Misconfigured(f"cannot listen on {settings.host}:{settings.port}; is the port taken?")
    finally:
        accounts.close()


def listener(app: Portal, settings: ControlSettings) -> uvicorn.Config:
    """How `app` is served. A caller's address is taken from `X-Forwarded-For` where this machine or a proxy
    that the portal trusts sends it."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_GRACE_S,
        timeout_keep_alive=5,
        limit_concurrency=256,
        ws="none",
        forwarded_allow_ips=["127.0.0.1", *settings.portal.trusted_proxies],
    )
    config.load()
    return config


def with_portal(control: AdminDoor, settings: ControlSettings) -> Portal:
    """The admin API with the tenants' portal in front: pages under `/portal/`, which ask it over HTTP."""
    own = ConsoleSettings(cookie_name(settings.tls is not None), settings.portal.fenced_host)
    return Portal(control, own)


def with_databases(settings: ControlSettings) -> ControlSettings:
    """`settings` with what opens the two databases, passwords included. Raises Misconfigured."""
    return msgspec.structs.replace(
        settings,
        accounts_db=located(settings.store, settings.accounts_db),
        ledger_db=located(settings.store, settings.ledger_db),
    )


if __name__ == "__main__":
    sys.exit(main())
