"""Runs the steps on the connection that `broker_worker.ledger.database` hands over (Alembic's entry point)."""

from alembic import context

from broker_worker.ledger.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
