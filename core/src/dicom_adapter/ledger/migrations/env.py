"""Run the migrations with the connection of `Ledger.migrate`. Called by Alembic."""

from alembic import context

from dicom_adapter.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
