"""The tables of the index. The index can be rebuilt, so a change of a table needs a new VERSION but no migration."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

VERSION = 2
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

metadata = MetaData()


class UtcTimestamp(TypeDecorator[datetime]):
    """A time, stored as microseconds since 1970-01-01 UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:  # noqa: ARG002 - SQLAlchemy's
        return None if value is None else (value - EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's
        return None if value is None else EPOCH + timedelta(microseconds=value)


RowId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows automatically only if the key is INTEGER

versions = Table("cache_version", metadata, Column("version", Integer, primary_key=True))

studies = Table(
    "cache_studies",
    metadata,
    Column("study_id", RowId, primary_key=True, autoincrement=True),
    Column("ae_title", String(16), nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    # The attributes and counts follow from the headers of the study (see `summaries`).
    Column("patient_conflict", Boolean, nullable=False),  # the instances disagree about the patient
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("patient_name", Text, nullable=False),
    Column("patient_birth_date", Text, nullable=False),
    Column("patient_sex", Text, nullable=False),
    Column("study_date", Text, nullable=False),
    Column("study_time", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("study_description", Text, nullable=False),
    Column("accession_number_folded", Text, nullable=False, index=True),  # case-insensitive forms
    Column("study_description_folded", Text, nullable=False),
    Column("series_count", Integer, nullable=False),
    Column("instance_count", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("first_arrival", UtcTimestamp, nullable=False),
    Column("last_arrival", UtcTimestamp, nullable=False, index=True),
    Column("last_use", UtcTimestamp, nullable=False, index=True),  # time of the last arrival, job or download
    Column("pinned", Boolean, nullable=False),
    UniqueConstraint("ae_title", "study_instance_uid"),
)
Index("cache_studies_by_date", studies.c.study_date)

series = Table(
    "cache_series",
    metadata,
    Column("series_id", RowId, primary_key=True, autoincrement=True),
    Column("study_id", ForeignKey("cache_studies.study_id", ondelete="CASCADE"), nullable=False),
    Column("series_instance_uid", Text, nullable=False, index=True),
    Column("modality", Text, nullable=False, index=True),
    Column("series_description", Text, nullable=False),
    Column("body_part_examined", Text, nullable=False),
    Column("instance_count", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    UniqueConstraint("study_id", "series_instance_uid"),
)

headers = Table(  # one row for all instances of a series with the same attributes
    "cache_headers",
    metadata,
    Column("header_id", RowId, primary_key=True, autoincrement=True),
    Column("study_id", ForeignKey("cache_studies.study_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("series_id", ForeignKey("cache_series.series_id", ondelete="CASCADE"), nullable=False),
    Column("digest", String(32), nullable=False),  # digest of the attributes
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("patient_name", Text, nullable=False),
    Column("patient_birth_date", Text, nullable=False),
    Column("patient_sex", Text, nullable=False),
    Column("study_date", Text, nullable=False),
    Column("study_time", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("study_description", Text, nullable=False),
    Column("modality", Text, nullable=False),
    Column("series_description", Text, nullable=False),
    Column("body_part_examined", Text, nullable=False),
    Column("patient_id_folded", Text, nullable=False, index=True),  # case-insensitive forms
    Column("patient_name_folded", Text, nullable=False, index=True),
    Column("instance_count", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("newest", RowId, nullable=False),  # the highest id of an instance with this header
    UniqueConstraint("series_id", "digest"),
)

instances = Table(
    "cache_instances",
    metadata,
    Column("instance_id", RowId, primary_key=True, autoincrement=False),  # the ledger's instance id
    Column("header_id", ForeignKey("cache_headers.header_id", ondelete="CASCADE"), nullable=False),
    Column("sop_instance_uid", Text, nullable=False, index=True),
    Column("sop_class_uid", Text, nullable=False),
    Column("transfer_syntax_uid", Text, nullable=False),
    Column("calling_ae_title", Text, nullable=False),
    Column("peer_address", Text, nullable=False),
    Column("association_id", Text, nullable=False),
    Column("received_at", UtcTimestamp, nullable=False),
    Column("storage_key", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Index("cache_instances_by_header", "header_id", "size_bytes"),
)

jobs = Table(
    "cache_jobs",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("ae_title", String(16), nullable=False, index=True),
    Column("keep", Boolean, nullable=False),  # false: the instances are deleted after the job has been submitted
    Column("fingerprint", String(64), nullable=False),  # digest of the order
    Column("created_at", UtcTimestamp, nullable=False, index=True),
    Column("finished", Boolean, nullable=False),
)

job_instances = Table(  # the instances of unfinished jobs
    "cache_job_instances",
    metadata,
    Column("job_id", ForeignKey("cache_jobs.job_id", ondelete="CASCADE"), primary_key=True),
    Column("instance_id", RowId, primary_key=True),
    Index("cache_job_instances_by_instance", "instance_id"),
)
