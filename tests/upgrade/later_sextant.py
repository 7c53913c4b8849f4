"""A later Sextant, made of this tree: another version, one more migration in each database.

What differs is only what an upgrade is about, so that a difference in behaviour is the upgrade's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sextant.store.upgrade import known_schemas

ROOT = Path(__file__).parents[2]
VERSION = "99.0.0"
REVISION = "9001"
_ACCOUNTS = f'''"""What a later version adds, and rewrites."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "{REVISION}"
down_revision = "{{before}}"


def upgrade() -> None:
    op.add_column("tenant", sa.Column("later_note", sa.String(64), nullable=False, server_default="migrated"))
    op.create_table("later_nouns", sa.Column("id", sa.String(64), primary_key=True))
'''
_LEDGER = """

SQLITE_STEPS = (
    *SQLITE_STEPS,
    "CREATE TABLE later_seen AS SELECT request_id, started_ms FROM usage;"
    "CREATE UNIQUE INDEX later_seen_by_id ON later_seen (request_id);",
)
SCHEMA_VERSION += 1
"""
_LEDGER_POSTGRES = """

POSTGRES_STEPS = (
    *POSTGRES_STEPS,
    "CREATE TABLE later_seen AS SELECT request_id, started_ms FROM usage",
)
SCHEMA_VERSION += 1
"""


def make_later_tree(folder: Path) -> Path:
    """The source of the later Sextant in `folder`, ready for `pip wheel`."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    package = folder / "src" / "sextant"
    version = package / "__init__.py"
    lines = version.read_text().splitlines()
    assert sum(line.startswith("__version__") for line in lines) == 1
    replaced = [f'__version__ = "{VERSION}"' if line.startswith("__version__") else line for line in lines]
    version.write_text("\n".join(replaced) + "\n")
    revision = package / "store" / "migrations" / "versions" / f"{REVISION}_later.py"
    revision.write_text(_ACCOUNTS.format(before=known_schemas().accounts))
    for name, addition in (("ledger_file.py", _LEDGER), ("ledger_postgres.py", _LEDGER_POSTGRES)):
        with (package / "store" / name).open("a") as file:
            file.write(addition)
    return folder
