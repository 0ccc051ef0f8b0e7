"""The schema of a ledger: create it, upgrade it, or read its revision.

Loading Alembic takes a third of a second, so it is loaded only to upgrade the ledger of an earlier version. A new
ledger gets its tables directly; a test verifies that the migrations create exactly the same tables.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from dicom_adapter.ledger import (  # noqa: F401 - they add tables
    association_schema,
    attachment_schema,
    clean_up_schema,
    trace_schema,
)
from dicom_adapter.ledger.schema import metadata

REVISION = "0018"  # revision of the newest migration, with which a new ledger is created
MIGRATIONS = Path(__file__).parent / "migrations"

# All indexes, in the order in which the migrations create them: of two equally good indexes, SQLite uses the newer one.
INDEXES = (
    "ix_events_association_id",
    "ix_events_instance_id",
    "ix_events_job_id",
    "one_pending_instance",
    "pending_instances",
    "released_instances",
    "replaced_instances",
    "ix_job_instances_instance_id",
    "quarantined_instances",
    "reclaimed_instances",
    "instances_of_study",
    "arrivals_of_instance",
    "events_by_time",
    "events_of_ae_title",
    "one_series",
    "series_of_study",
    "series_of_accession_number",
    "series_of_patient",
    "series_by_time",
    "senders_by_time",
    "rejections_of_hour",
    "reports_of_ae_title",
    "unfinished_jobs",
    "started_jobs",
    "begun_jobs",
    "finished_jobs",
    "results_of_job",
    "results_by_uid",
    "ix_attachments_job_number",
    "newest_results",
    "results_by_checksum",
    "attachments_by_checksum",
    "ix_clean_ups_job_number",
    "clean_ups_by_time",
    "ix_job_attachments_attachment_number",
    "counted_jobs",
    "trace_contexts_by_time",
    "jobs_of_ae_title",
    "held_jobs",
)

_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def read_revision(connection: Connection) -> str | None:
    """Return the revision of the ledger's schema, or None if the ledger is empty."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.execute(select(_version.c.version_num)).scalar()


def known_revisions() -> frozenset[str]:
    """Return the revisions of this version and of all earlier ones."""
    return frozenset(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def has_tables(connection: Connection) -> bool:
    """Return whether the database has any table."""
    return bool(inspect(connection).get_table_names())


def create(connection: Connection) -> None:
    """Create all tables in an empty database, with the newest revision."""
    for statement in _statements():
        connection.exec_driver_sql(statement)
    connection.execute(_version.insert().values(version_num=REVISION))


@cache
def _statements() -> tuple[str, ...]:
    """Return the statements that create the tables and indexes. To compile them takes as long as to execute them."""
    indexes = {str(index.name): index for table in metadata.tables.values() for index in table.indexes}
    elements: list[CreateTable | CreateIndex] = [
        *(CreateTable(table) for table in metadata.sorted_tables),
        *(CreateIndex(indexes[name]) for name in INDEXES),
        CreateTable(_version),
    ]
    return tuple(str(element.compile(dialect=sqlite.dialect())) for element in elements)


def upgrade(connection: Connection) -> None:
    """Run the migrations that the ledger does not have yet."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
