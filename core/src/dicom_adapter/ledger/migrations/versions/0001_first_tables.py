"""The first tables: instances, jobs and their instances, lanes, events. `ledger.schema` explains the columns."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MICROSECONDS = sa.BigInteger()  # since 1970-01-01 UTC


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("event_id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("at", MICROSECONDS, nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("association_id", sa.String(length=32), nullable=True),
        sa.Column("instance_id", ROW_ID, nullable=True),
        sa.Column("job_id", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_events_association_id"), "events", ["association_id"], unique=False)
    op.create_index(op.f("ix_events_instance_id"), "events", ["instance_id"], unique=False)
    op.create_index(op.f("ix_events_job_id"), "events", ["job_id"], unique=False)
    op.create_table(
        "instances",
        sa.Column("instance_id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("peer_address", sa.String(length=45), nullable=False),
        sa.Column("association_id", sa.String(length=32), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("issuer_of_patient_id", sa.Text(), nullable=False),
        sa.Column("received_at", MICROSECONDS, nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("replaced_by", ROW_ID, nullable=True),
        sa.PrimaryKeyConstraint("instance_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "one_pending_instance",
        "instances",
        ["ae_title", "sop_instance_uid"],
        unique=True,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "pending_instances",
        "instances",
        ["ae_title", "instance_id"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "released_instances",
        "instances",
        ["instance_id"],
        unique=False,
        sqlite_where=sa.text("state = 'released'"),
        postgresql_where=sa.text("state = 'released'"),
    )
    op.create_index(
        "replaced_instances",
        "instances",
        ["replaced_by"],
        unique=False,
        sqlite_where=sa.text("replaced_by IS NOT NULL"),
        postgresql_where=sa.text("replaced_by IS NOT NULL"),
    )
    op.create_table(
        "jobs",
        sa.Column("job_number", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("pipeline_id", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("submitter", sa.Text(), nullable=False),
        sa.Column("instance_count", sa.Integer(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", MICROSECONDS, nullable=False),
        sa.Column("changed_at", MICROSECONDS, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", MICROSECONDS, nullable=True),
        sa.Column("next_attempt_at", MICROSECONDS, nullable=True),
        sa.Column("last_error", sa.Text(), server_default="", nullable=False),
        sa.Column("platform_job_id", sa.Text(), server_default="", nullable=False),
        sa.Column("platform_payload_id", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("job_number"),
        sa.UniqueConstraint("job_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "unfinished_jobs",
        "jobs",
        ["submitter", "priority", "job_number"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'created', 'metadata-sent', 'uploaded')"),
        postgresql_where=sa.text("state IN ('queued', 'created', 'metadata-sent', 'uploaded')"),
    )
    op.create_table(
        "lanes",
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", MICROSECONDS, nullable=False),
        sa.Column("waiting", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("ae_title"),
    )
    op.create_table(
        "job_instances",
        sa.Column("job_number", ROW_ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("instance_id", ROW_ID, nullable=False),
        sa.Column("uploaded", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"],
            ["instances.instance_id"],
        ),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.job_number"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_number", "position"),
    )
    op.create_index(op.f("ix_job_instances_instance_id"), "job_instances", ["instance_id"], unique=False)
