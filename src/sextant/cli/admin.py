"""Talking to the admin API of the deployment in a state directory, with its local credential."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from sextant.base.config import resolve_secret
from sextant.base.errors import NotFound, Permanent, SextantError
from sextant.cli.output import NOT_RUNNING, with_state

if TYPE_CHECKING:
    from sextant.app.state import StateDir
    from sextant.store.accounts import Accounts

TIMEOUT_S = 10.0


def not_running(state: StateDir) -> SextantError:
    """The error of a command that needs a running deployment."""
    return SextantError(
        f"nothing runs with the state directory {state.root}; start it with `{with_state('up', state)}`",
        code=NOT_RUNNING,
    )


class AdminApi:
    """One deployment's admin API. Raises SextantError for whatever goes wrong, in the API's own words."""

    def __init__(self, state: StateDir) -> None:
        from sextant.control.settings import read_status

        status = read_status(state.status_file)
        if state.holder() is None or status is None:
            raise not_running(state)
        self.status = status
        self._logs = state.logs
        self._secret = resolve_secret(f"file:{state.admin_secret}")

    def all(self, target: str, noun: str) -> list[dict[str, Any]]:
        """Every entry of a list, page after page. `noun` is its name in the answer."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            joined = f"{'&' if '?' in target else '?'}cursor={quote(cursor, safe='')}" if cursor else ""
            answer = self.call("GET", target + joined)
            found += answer[noun]
            cursor = str(answer.get("next") or "")
            if not cursor:
                return found

    def call(self, method: str, target: str, body: Any = None) -> Any:
        """The decoded answer."""
        _, content = self.fetch(method, target, body)
        try:
            return json.loads(content)
        except ValueError:
            raise self._no_reason("something that is no JSON") from None

    def fetch(self, method: str, target: str, body: Any = None) -> tuple[str, bytes]:
        """The answer as it came: its content type and content."""
        connection = local_connection(self.status.control_url)
        try:
            payload = None if body is None else json.dumps(body)
            headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
            connection.request(method, target, payload, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise SextantError(
                f"the admin API at {self.status.control_url} does not answer ({error}); see `sextant status`"
            ) from None
        finally:
            connection.close()
        if answer.status < 400:
            return answer.headers.get_content_type(), text
        try:
            told = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            raise self._no_reason(str(answer.status)) from None
        kind = NotFound if answer.status == 404 else Permanent
        raise kind(
            str(told.get("message", f"status {answer.status}")),
            field=told.get("param"),
            code=str(told.get("code") or kind.code),
        )

    def _no_reason(self, answered: str) -> SextantError:
        return SextantError(
            f"the admin API answered {answered} without a reason; see {self._logs / 'control.log'}, and "
            f"whether the disk of the state directory is full"
        )


@contextlib.contextmanager
def local_accounts(state: StateDir) -> Iterator[Accounts]:
    """The accounts of a deployment that does not run here, in its file or in PostgreSQL; the lock of the
    state directory is held meanwhile.

    Raises SextantError when there is no deployment here yet, or one runs after all; Misconfigured where the
    database's password cannot be read; LedgerUnavailable where PostgreSQL is away.
    """
    from sextant.app.stores import databases_of, located, noted_store
    from sextant.store.accounts import Accounts
    from sextant.store.upgrade import bring_up_to_date

    store = noted_store(state)
    if store.is_sqlite and not state.accounts_db.exists():
        raise not_running(state)
    location = located(store, state.accounts_db)
    with state.lock():
        bring_up_to_date(databases_of(state, store))
        accounts = Accounts(location)
        try:
            accounts.migrate()
            yield accounts
        finally:
            accounts.close()


def local_connection(url: str) -> http.client.HTTPConnection:
    """A connection to one of our own processes on this machine, found through the state directory."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https":
        return http.client.HTTPConnection(host, parts.port or 80, timeout=TIMEOUT_S)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, parts.port or 443, timeout=TIMEOUT_S, context=context)
