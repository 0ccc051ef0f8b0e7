"""Several receivers share what there is."""

from __future__ import annotations

from collections.abc import Callable

from dicom_adapter.config.listening import DicomConfig


def test_associations_are_shared_out_among_the_receivers() -> None:
    """As evenly as it goes, and not one more than all together may have."""
    dicom = DicomConfig(receivers=4, max_associations=50)
    assert [13, 13, 12, 12] == [dicom.share_of(number).max_associations for number in (1, 2, 3, 4)]
    assert DicomConfig(max_associations=25) == DicomConfig(max_associations=25).share_of(1)


def test_every_receiver_has_to_have_a_share(problems: Callable[[str], dict[str, str]]) -> None:
    """One that may take no association would reject whoever comes to it."""
    found = problems("[dicom]\nreceivers = 3\nmax-associations = 2\n")
    assert "receivers = 3 must not be above max-associations = 2" in found["dicom"]
