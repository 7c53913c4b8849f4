"""Alembic's entry: runs the migrations over the connection that `sextant.store.accounts` hands in."""

from __future__ import annotations

from alembic import context

from sextant.store.accounts_schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
