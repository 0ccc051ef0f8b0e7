"""The log has a line for each study of an association."""

from __future__ import annotations

import pytest

from dicom_adapter.receiver import arriving_studies
from dicom_adapter.receiver.arriving_studies import ArrivingStudies


def test_a_study_is_new_once_in_each_association() -> None:
    studies = ArrivingStudies()
    found = [studies.is_new(*each) for each in (("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), ("a", "2"), ("b", "1"))]
    assert [True, False, True, True, False, False] == found
    studies.end("a")
    assert studies.is_new("a", "1")


def test_associations_and_studies_without_end_use_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of an association that has ended already create an entry that nothing else removes."""
    monkeypatch.setattr(arriving_studies, "MAX_ASSOCIATIONS", 3)
    monkeypatch.setattr(arriving_studies, "MAX_STUDIES", 3)
    studies = ArrivingStudies()
    for number in range(10):
        studies.is_new(f"a{number}", "1")
        studies.is_new("z", f"{number}")
    assert 3 == len(studies._studies)
    assert all(len(each) <= 3 for each in studies._studies.values())
