"""Alembic's entry: the connection comes from the ledger, which holds the lock."""

from alembic import context

from horarium.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
