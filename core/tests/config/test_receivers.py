"""The division of associations among several receivers."""

from __future__ import annotations

from collections.abc import Callable

from dicom_adapter.config.listening import DicomConfig


def test_associations_are_divided_among_the_receivers() -> None:
    """The shares are as equal as possible, and their sum is the limit."""
    dicom = DicomConfig(receivers=4, max_associations=50)
    assert [13, 13, 12, 12] == [dicom.share_of(number).max_associations for number in (1, 2, 3, 4)]
    assert DicomConfig(max_associations=25) == DicomConfig(max_associations=25).share_of(1)


def test_every_receiver_needs_at_least_one_association(problems: Callable[[str], dict[str, str]]) -> None:
    """A receiver without associations would reject every requestor."""
    reported = problems("[dicom]\nreceivers = 3\nmax-associations = 2\n")
    assert "receivers = 3 must not be above max-associations = 2" in reported["dicom"]
