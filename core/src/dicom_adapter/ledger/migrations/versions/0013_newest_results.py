"""Indexes with which results are listed and compared without reading the instances that were received."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    is_result = sa.text("source_job IS NOT NULL")
    for name, columns in (
        ("newest_results", ["instance_id", "ae_title", "received_at"]),
        ("results_by_checksum", ["checksum"]),
    ):
        op.create_index(name, "instances", columns, sqlite_where=is_result, postgresql_where=is_result)
    op.create_index("attachments_by_checksum", "attachments", ["checksum"])
