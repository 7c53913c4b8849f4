"""Where the databases of a deployment are: files of its state directory, or PostgreSQL.

`sextant up` notes what its document says in `store.json`, so that commands find the databases without the
document. A password is read where a process needs it, and stands in no file of ours.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import msgspec

from sextant.app.state import StateDir, write_private
from sextant.base.config import resolve_secret, sealed_variable, variable
from sextant.base.errors import Misconfigured
from sextant.spec.stores import StoreSettings
from sextant.store.upgrade_backup import Databases


def located(store: StoreSettings, file: str | Path) -> str:
    """What opens a database: the path of its SQLite `file`, or the URL of PostgreSQL with its password. Never
    log it. Raises Misconfigured where the password cannot be read."""
    if store.is_sqlite:
        return str(file)
    if store.password_ref is None:
        return store.url
    scheme, _, rest = store.url.partition("://")
    user, at, where = rest.partition("@")
    return f"{scheme}://{user}:{quote(resolve_secret(store.password_ref), safe='')}{at}{where}"


def databases_of(state: StateDir, store: StoreSettings) -> Databases:
    """Both databases of a deployment. Raises Misconfigured where the password cannot be read."""
    url = "" if store.is_sqlite else located(store, "")
    return Databases(state.root, state.accounts_db, state.ledger_db, url)


def note_store(state: StateDir, store: StoreSettings) -> None:
    """Keeps `store` for commands that have no document. Raises Misconfigured where the deployment kept its
    books elsewhere before: they do not move by themselves."""
    before = noted_store(state)
    if before.is_sqlite != store.is_sqlite and (state.store_file.exists() or state.accounts_db.exists()):
        raise Misconfigured(
            f"the deployment in {state.root} keeps accounts and ledger in {_shown(before)}, and the document "
            f"says {_shown(store)}; they do not move by themselves: start with another state directory "
            f"(--state DIR), or put spec.store back",
            field="spec.store.url",
        )
    write_private(state.store_file, msgspec.json.encode(store))


def noted_store(state: StateDir) -> StoreSettings:
    """Where the deployment of a state directory keeps its books. Raises Misconfigured."""
    try:
        return msgspec.json.decode(state.store_file.read_bytes(), type=StoreSettings)
    except FileNotFoundError:
        return StoreSettings()
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"{state.store_file} cannot be read: {error}") from None


def secret_variables(given: Iterable[str | None]) -> dict[str, str]:
    """The environment variables that secret references name, for a process that needs just these; a sealed
    one's is made for it. Raises Misconfigured for one that is not set."""
    refs = [ref for ref in given if ref is not None]
    names = sorted({ref.removeprefix("env:") for ref in refs if ref.startswith("env:")})
    found = {name: variable(name) for name in names}
    for name, value in found.items():
        if value is None:
            raise Misconfigured(f"the environment variable {name} is not set; set it before starting")
    held = {sealed_variable(ref): resolve_secret(ref) for ref in sorted(refs) if ref.startswith("sealed:")}
    return {name: value for name, value in found.items() if value is not None} | held


def here(state: StateDir) -> str:
    """A short name of this deployment's place among several that share a database: of host and folder."""
    return hashlib.sha256(f"{socket.gethostname()}:{state.root}".encode()).hexdigest()[:8]


def _shown(store: StoreSettings) -> str:
    return "files" if store.is_sqlite else store.url.partition("?")[0]
