"""Entry of rows: an instance between the end of its data set and its row in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from attrs import define, field

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import arrivals
from dicom_adapter.ledger.instances import UNNUMBERED
from dicom_adapter.ledger.microseconds import to_datetime
from dicom_adapter.ledger.series import ArrivedSeries

_VALUES = itemgetter(*arrivals.COLUMNS)


@define(kw_only=True)
class ReceivedInstance:
    """An instance whose data set is complete.

    `received_at` is set when the row is entered (see `entry`), so that rows and times have the same order. An instance
    that is recovered after a crash or power loss keeps the time in its recovery record.
    """

    # The columns of its row by name (`arrivals.COLUMNS`); `received_at` is in microseconds, as the ledger stores it. A
    # dictionary is fast: recovery record, row and info are built from it, and a class would take twice as long.
    columns: dict[str, Any]
    look_up: Mapping[str, str] = field(factory=dict)  # attributes by which operators look for it; see `dicom.identity`
    quarantine_reason: str = ""  # reason why no processor receives the instance; "" if a processor receives it
    receiver_run: str = ""  # receiver run of the recovery record; "" if there is no record
    number: int = 0  # number of the recovery record in the receiver run; 0 if there is no record
    record: bytes = b""  # recovery record, for the journal; b"" if there is none
    receiver: str = ""  # name of the receiver, if another process enters the row; otherwise ""
    is_recovered: bool = False  # True if the instance was read from a recovery record: it may have a row already
    is_followed: bool = False  # True if the instance was read from a journal: it may have a row already

    @property
    def was_offered(self) -> bool:
        """True if the instance was read from a log. Such an instance may be offered to `RowEntry` several times."""
        return self.is_recovered or self.is_followed

    @property
    def ae_title(self) -> str:
        """The called AE title."""
        return str(self.columns["ae_title"])

    @property
    def association_id(self) -> str:
        return str(self.columns["association_id"])

    @property
    def calling_ae_title(self) -> str:
        return str(self.columns["calling_ae_title"])

    @property
    def peer_address(self) -> str:
        """The IP address of the requestor."""
        return str(self.columns["peer_address"])

    @property
    def study_instance_uid(self) -> str:
        return str(self.columns["study_instance_uid"])

    @property
    def sop_instance_uid(self) -> str:
        return str(self.columns["sop_instance_uid"])

    @property
    def size_bytes(self) -> int:
        """The size of the Part 10 file."""
        size: int = self.columns["size_bytes"]
        return size

    @property
    def storage_key(self) -> str:
        return str(self.columns["storage_key"])

    def row(self) -> tuple[object, ...]:
        """Return the values in the order of `arrivals.COLUMNS`."""
        values: tuple[object, ...] = _VALUES(self.columns)
        return values

    def series(self) -> ArrivedSeries:
        """Return the series to which the instance belongs."""
        columns = self.columns
        return ArrivedSeries(
            columns["series_instance_uid"], columns["study_instance_uid"], columns["patient_id"], **self.look_up
        )

    def info(self, instance_id: int = UNNUMBERED) -> InstanceStorageInfo:
        """Return the instance as processors receive it."""
        columns = {**self.columns, "received_at": to_datetime(self.columns["received_at"])}
        return InstanceStorageInfo(instance_id=instance_id, **columns)
