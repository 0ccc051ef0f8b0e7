"""Reports about associations for job processors, open associations, and how senders end their associations.

`ledger.association_schema` explains the columns.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "association_reports",
        sa.Column("number", ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("peer_address", sa.String(length=45), nullable=False),
        sa.Column("association_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("acknowledged", sa.Integer(), nullable=False),
        sa.Column("failed", sa.JSON(), nullable=False),
        sa.Column("cut_off", sa.Integer(), nullable=False),
        sa.Column("studies", sa.JSON(), nullable=False),
        sa.Column("all_studies_known", sa.Boolean(), nullable=False),
        sa.Column("all_counted", sa.Boolean(), nullable=False),
        sa.Column("unreleased_in_a_row", sa.Integer(), nullable=False),
        sa.Column("first_instance_id", sa.BigInteger(), nullable=False),
        sa.Column("last_instance_id", sa.BigInteger(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("reports_of_ae_title", "association_reports", ["ae_title", "number"])
    op.create_table(
        "open_associations",
        sa.Column("association_id", sa.String(length=32), primary_key=True),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("peer_address", sa.String(length=45), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("first_instance_id", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "unreleased_associations",
        sa.Column("ae_title", sa.String(length=16), primary_key=True),
        sa.Column("calling_ae_title", sa.String(length=16), primary_key=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
    )
