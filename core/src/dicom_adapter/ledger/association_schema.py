"""Tables of the ledger about associations, in addition to those of `schema`."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, Integer, String, Table, Text

from dicom_adapter.ledger.column_types import RowId, UtcDateTime
from dicom_adapter.ledger.schema import metadata

# Reports about associations, which lanes deliver to their processors in the order of arrivals.
association_reports = Table(
    "association_reports",
    metadata,
    Column("number", RowId, primary_key=True, autoincrement=True),
    Column("ae_title", String(16), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("peer_address", String(45), nullable=False),
    Column("association_id", String(32), nullable=False),
    Column("state", String(16), nullable=False),  # an AssociationStatus; "end-wait" for a request of an operator
    Column("began_at", UtcDateTime, nullable=False),  # request for the association, or its first stored instance
    Column("at", UtcDateTime, nullable=False),  # time of the end, or of the first failure that the report contains
    Column("acknowledged", Integer, nullable=False),  # number of C-STOREs that were answered with success
    Column("failed", JSON, nullable=False),  # number of failed C-STOREs by name of the status
    Column("cut_off", Integer, nullable=False),  # number of data sets that were incomplete when the association ended
    Column("studies", JSON, nullable=False),  # Study Instance UIDs, see `AssociationReport`
    Column("all_studies_known", Boolean, nullable=False),  # false: the studies of some failed instances are unknown
    Column("all_counted", Boolean, nullable=False),  # false: after a crash, further failures are possible
    Column("unreleased_in_a_row", Integer, nullable=False),  # `count` of unreleased_associations at the end
    # The report concerns pending instances with ids from the first to the last. It is delivered after that last one.
    Column("first_instance_id", BigInteger, nullable=False),
    Column("last_instance_id", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
Index("reports_of_ae_title", association_reports.c.ae_title, association_reports.c.number)

# Associations with stored instances whose end is not recorded yet. After a crash their ends are unknown.
open_associations = Table(
    "open_associations",
    metadata,
    Column("association_id", String(32), primary_key=True),
    Column("receiver", Text, nullable=False),  # name of the receiver
    Column("ae_title", String(16), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("peer_address", String(45), nullable=False),
    Column("began_at", UtcDateTime, nullable=False),  # arrival of the first stored instance
    Column("first_instance_id", BigInteger, nullable=False),  # id of this instance
)

# Number of the latest consecutive associations of a sender that ended without an A-RELEASE, although nothing failed. A
# sender whose latest association ended in another way has no row.
unreleased_associations = Table(
    "unreleased_associations",
    metadata,
    Column("ae_title", String(16), primary_key=True),
    Column("calling_ae_title", String(16), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),  # end of the latest of these associations
)
