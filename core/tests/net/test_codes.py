"""Each result of the association and store steps has a code that PS3.4, PS3.7 or PS3.8 defines."""

from __future__ import annotations

import pytest

from dicom_adapter.api.receiving import Rejection, StoreOutcome
from dicom_adapter.net.codes import C_STORE_STATUS, REJECT_REASON, CStoreStatus


def test_each_outcome_has_a_status_and_each_rejection_a_reason() -> None:
    """An outcome without a status would end the sender's association.

    Verified to fail when an outcome is added without a status.
    """
    assert set(StoreOutcome) == set(C_STORE_STATUS)
    assert set(Rejection) == set(REJECT_REASON)


def test_each_status_is_used() -> None:
    """The documentation describes each status, so each must be possible."""
    assert set(CStoreStatus) == set(C_STORE_STATUS.values())


@pytest.mark.parametrize("outcome", StoreOutcome)
def test_success_is_answered_exactly_when_the_sender_may_delete_its_copy(outcome: StoreOutcome) -> None:
    """Verified to fail when a refused instance is answered with success."""
    assert outcome.is_acknowledged == (CStoreStatus.SUCCESS is C_STORE_STATUS[outcome])


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (StoreOutcome.STORED, 0x0000),
        (StoreOutcome.SOP_CLASS_NOT_SUPPORTED, 0x0122),  # PS3.7 annex C.5.20
        (StoreOutcome.FAILED, 0x0110),  # PS3.7 annex C.5.16, processing failure
        (StoreOutcome.OUT_OF_SPACE, 0xA700),  # PS3.4 table B.2-1, refused: out of resources
        (StoreOutcome.DOES_NOT_MATCH, 0xA900),  # PS3.4 table B.2-1, data set does not match SOP class
        (StoreOutcome.CANNOT_UNDERSTAND, 0xC000),  # PS3.4 table B.2-1, cannot understand
    ],
)
def test_statuses_are_those_of_the_standard(outcome: StoreOutcome, status: int) -> None:
    """Senders decide by the status whether to retry."""
    assert status == C_STORE_STATUS[outcome]


def test_reject_reasons_are_those_of_the_standard() -> None:
    """PS3.8 table 9-21 defines result, source and reason: permanent if the request is wrong, transient otherwise."""
    expected = {
        Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED: (1, 1, 7),
        Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED: (1, 1, 3),
        Rejection.TEMPORARY_CONGESTION: (2, 3, 1),
        Rejection.LOCAL_LIMIT_EXCEEDED: (2, 3, 2),
    }
    assert expected == REJECT_REASON
