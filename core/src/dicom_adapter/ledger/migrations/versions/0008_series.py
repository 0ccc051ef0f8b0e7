"""The series that have arrived, with the attributes by which operators look for a study (see `ledger.series`)."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

TEXTS = ("patient_id", "accession_number", "study_date", "modality", "study_description", "series_description")
KEY = ["series_instance_uid", "study_instance_uid", "patient_id", "accession_number", "study_date", "modality"]
# Fill the table from the instances. Earlier versions did not keep the attributes that are empty here.
OF_KNOWN_INSTANCES = """
    INSERT INTO series (series_instance_uid, study_instance_uid, patient_id, accession_number, study_date, modality,
                        study_description, series_description, seen_at)
    SELECT series_instance_uid, study_instance_uid, patient_id, '', '', '', '', '', max(received_at)
    FROM instances GROUP BY series_instance_uid, study_instance_uid, patient_id
"""


def upgrade() -> None:
    op.create_table(
        "series",
        sa.Column(
            "series_number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in TEXTS),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
    )
    op.execute(OF_KNOWN_INSTANCES)
    op.create_index("one_series", "series", KEY, unique=True)
    op.create_index("series_of_study", "series", ["study_instance_uid"])
    op.create_index("series_of_accession_number", "series", ["accession_number"])
    op.create_index("series_of_patient", "series", ["patient_id"])
    op.create_index("series_by_time", "series", ["seen_at"])
