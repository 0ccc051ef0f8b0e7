"""Data for operators: times and outcomes of instances, counters, health, full AE titles and restarts of lanes.

`ledger.schema` explains the columns.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

OUTCOME_SO_FAR = """
    UPDATE instances SET outcome = CASE
        WHEN replaced_by IS NOT NULL THEN 'replaced'
        WHEN EXISTS (SELECT 1 FROM job_instances JOIN jobs ON jobs.job_number = job_instances.job_number
                     WHERE job_instances.instance_id = instances.instance_id AND jobs.state = 'submitted')
            THEN 'submitted'
        WHEN EXISTS (SELECT 1 FROM job_instances WHERE job_instances.instance_id = instances.instance_id)
            THEN 'cancelled'
        ELSE 'unused' END
    WHERE state = 'reclaimed' OR replaced_by IS NOT NULL
"""


def upgrade() -> None:
    op.add_column("instances", sa.Column("changed_at", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("instances", sa.Column("outcome", sa.String(length=16), server_default="", nullable=False))
    op.execute("UPDATE instances SET changed_at = received_at")
    op.execute(OUTCOME_SO_FAR)
    quarantined, reclaimed = sa.text("state = 'quarantined'"), sa.text("state = 'reclaimed'")
    op.create_index(
        "quarantined_instances",
        "instances",
        ["ae_title", "instance_id", "size_bytes"],
        sqlite_where=quarantined,
        postgresql_where=quarantined,
    )
    op.create_index(
        "reclaimed_instances", "instances", ["changed_at"], sqlite_where=reclaimed, postgresql_where=reclaimed
    )
    op.create_index("instances_of_study", "instances", ["study_instance_uid"])
    op.create_index("arrivals_of_instance", "instances", ["sop_instance_uid"])
    op.create_table(
        "tallies",
        sa.Column("ae_title", sa.String(length=16), primary_key=True),
        sa.Column("what", sa.String(length=16), primary_key=True),
        sa.Column("count", sa.BigInteger(), nullable=False),
    )
    op.execute("INSERT INTO tallies SELECT ae_title, 'received', count(*) FROM instances GROUP BY ae_title")
    op.add_column("lanes", sa.Column("full", sa.Text(), server_default="", nullable=False))
    op.add_column("lanes", sa.Column("restarts", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "health",
        sa.Column("part", sa.Text(), primary_key=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
    )
    op.create_index("events_by_time", "events", ["at"])
    whole = sa.text("instance_id IS NULL AND job_id IS NULL AND association_id IS NULL")
    op.create_index("events_of_ae_title", "events", ["ae_title", "at"], sqlite_where=whole, postgresql_where=whole)
    finished = sa.text("state IN ('submitted', 'cancelled')")
    op.create_index("finished_jobs", "jobs", ["changed_at"], sqlite_where=finished, postgresql_where=finished)
    faulted = sa.text("state = 'faulted'")
    op.create_index("faulted_jobs", "jobs", ["ae_title", "job_number"], sqlite_where=faulted, postgresql_where=faulted)
