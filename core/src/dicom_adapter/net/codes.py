"""The C-STORE status for each result of a store, and the A-ASSOCIATE-RJ reason for each rejection."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TypeAlias

from dicom_adapter.api.receiving import Rejection, StoreOutcome


class CStoreStatus(IntEnum):
    """C-STORE response statuses (PS3.4 table B.2-1, PS3.7 annex C)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


C_STORE_STATUS: Mapping[StoreOutcome, CStoreStatus] = {
    StoreOutcome.STORED: CStoreStatus.SUCCESS,
    StoreOutcome.ALREADY_STORED: CStoreStatus.SUCCESS,
    StoreOutcome.SUPERSEDED: CStoreStatus.SUCCESS,  # a newer instance with the same UID is pending
    StoreOutcome.IGNORED: CStoreStatus.SUCCESS,  # the configuration ignores the SOP class
    StoreOutcome.SOP_CLASS_NOT_SUPPORTED: CStoreStatus.SOP_CLASS_NOT_SUPPORTED,
    StoreOutcome.OUT_OF_SPACE: CStoreStatus.OUT_OF_RESOURCES,
    StoreOutcome.DOES_NOT_MATCH: CStoreStatus.DATA_SET_DOES_NOT_MATCH,
    StoreOutcome.CANNOT_UNDERSTAND: CStoreStatus.CANNOT_UNDERSTAND,
    StoreOutcome.FAILED: CStoreStatus.PROCESSING_FAILURE,
}

RejectReason: TypeAlias = tuple[int, int, int]  # result, source, reason/diagnostic

# PS3.8 section 9.3.4, table 9-21
REJECT_REASON: Mapping[Rejection, RejectReason] = {
    Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED: (1, 1, 7),  # permanent, by the service-user
    Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED: (1, 1, 3),
    Rejection.TEMPORARY_CONGESTION: (2, 3, 1),  # transient, by the service-provider (presentation)
    Rejection.LOCAL_LIMIT_EXCEEDED: (2, 3, 2),
}
