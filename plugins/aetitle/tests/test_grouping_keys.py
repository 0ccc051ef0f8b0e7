"""Keys of groups: studies, patients, series, and other attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydicom.dataset import Dataset


def counts(lane: Any) -> list[int]:
    """Return the number of instances of each job."""
    lane.run_all_timers()
    return [len(job.instances) for job in lane.jobs]


def header(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def lane_with_headers(new_lane: Any, instance: Any, group_by: str, *headers: Dataset) -> Any:
    """Return a lane that received one instance for each header."""
    instances = [instance(0) for _ in headers]
    by_id: Mapping[int, Dataset] = {i.instance_id: h for i, h in zip(instances, headers, strict=True)}
    lane = new_lane(group_by=group_by, headers=by_id)
    lane.arrive(*instances)
    return lane


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2, 1, 1]),
        ({"timeout": 60.0}, [3, 1]),
        ({"timeout": 60.0, "group_by": "study"}, [2, 1, 1]),
        ({"group_by": "patient"}, [3, 1]),
        ({"group_by": "series"}, [1, 1, 1, 1]),
    ],
)
def test_the_default_depends_on_the_timeout_and_group_by_overrides_it(
    new_lane: Any, instance: Any, settings: dict[str, Any], expected: list[int]
) -> None:
    """The default is study without a timeout and patient with a timeout; `group-by` overrides it."""
    lane = new_lane(**settings)

    lane.arrive(
        instance(0, "1.1", series_instance_uid="1.1.1"),
        instance(0, "1.1", series_instance_uid="1.1.2"),
        instance(0, "1.2"),
        instance(0, "1.3", patient_id="PID-4712"),
    )

    assert expected == counts(lane)


def test_patients_with_the_same_id_from_different_issuers_are_two_groups(new_lane: Any, instance: Any) -> None:
    """A Patient ID is unique only with its issuer; an absent issuer counts as a separate issuer."""
    lane = new_lane(group_by="patient")

    lane.arrive(*(instance(0, issuer_of_patient_id=issuer) for issuer in ("A", "B", "A", "")))

    assert [2, 1, 1] == counts(lane)


def test_padding_does_not_distinguish_patients(new_lane: Any, instance: Any) -> None:
    """Spaces around Patient ID and issuer, and a NUL at the end, are padding (PS3.5, 6.2)."""
    lane = new_lane(group_by="patient")

    for patient_id, issuer in (("7", "A"), ("7 ", "A "), (" 7", " A"), ("7\0", "A\0")):
        lane.arrive(instance(0, patient_id=patient_id, issuer_of_patient_id=issuer))

    assert [4] == counts(lane)


@pytest.mark.parametrize("group_by", ["AccessionNumber", "(0008,0050)", "00080050"])
def test_an_attribute_groups_by_its_values(new_lane: Any, instance: Any, group_by: str) -> None:
    """A keyword and both ways to write a tag group by the value in the data set, without its padding."""
    headers = [header(AccessionNumber=value) for value in ("A1", "A2", "A1 ")]

    lane = lane_with_headers(new_lane, instance, group_by, *headers)

    assert [2, 1] == counts(lane)


def test_an_attribute_with_several_values_groups_by_all_of_them(new_lane: Any, instance: Any) -> None:
    """ORIGINAL\\PRIMARY and ORIGINAL\\SECONDARY are two groups; numbers group like strings."""
    kinds = (["ORIGINAL", "PRIMARY"], ["ORIGINAL", "SECONDARY"], ["ORIGINAL", "PRIMARY"])
    by_kind = lane_with_headers(new_lane, instance, "ImageType", *(header(ImageType=kind) for kind in kinds))
    by_rows = lane_with_headers(new_lane, instance, "Rows", *(header(Rows=rows) for rows in (1, 2, 1)))

    assert [2, 1] == counts(by_kind)
    assert [2, 1] == counts(by_rows)


def test_grouping_by_study_patient_or_series_reads_no_header(new_lane: Any, instance: Any) -> None:
    """Their values are fields of the instance, so no stored object is opened."""
    for group_by in ("study", "patient", "series"):
        lane = new_lane(group_by=group_by)
        lane.arrive(instance(0))
        assert 0 == lane.headers_read


@pytest.mark.parametrize(
    ("group_by", "missing", "named"),
    [
        ("study", {"study_instance_uid": ""}, "StudyInstanceUID (0020,000D)"),
        ("series", {"series_instance_uid": ""}, "SeriesInstanceUID (0020,000E)"),
        ("patient", {"patient_id": "  ", "issuer_of_patient_id": "SECRET"}, "PatientID (0010,0020)"),
    ],
)
def test_an_instance_without_the_grouping_uid_or_id_is_quarantined(
    new_lane: Any, instance: Any, group_by: str, missing: dict[str, str], named: str
) -> None:
    """The reason names AE title and attribute, and no value of the patient. Open groups are unaffected."""
    lane = new_lane(group_by=group_by)

    lane.arrive(instance(0), instance(1, **missing))

    assert [
        f"AE title 'LUNG' groups by {named}, which is missing or empty: "
        "send the instance again with a value, or group by something else"
    ] == lane.quarantined
    assert [1] == counts(lane)


@pytest.mark.parametrize("empty", [header(), header(AccessionNumber=None), header(AccessionNumber=" ")])
def test_an_instance_without_the_grouping_attribute_is_quarantined(
    new_lane: Any, instance: Any, empty: Dataset
) -> None:
    """Absent, empty and blank values all count as missing."""
    lane = lane_with_headers(new_lane, instance, "AccessionNumber", empty)

    assert ["AccessionNumber (0008,0050), which is missing or empty"] == [
        reason.removeprefix("AE title 'LUNG' groups by ").split(":")[0] for reason in lane.quarantined
    ]
    assert [] == counts(lane)


def test_a_value_that_cannot_be_read_is_quarantined_without_quoting_it(new_lane: Any, instance: Any) -> None:
    """A VR that contradicts the dictionary makes the value unreadable. The reason names only the attribute."""
    broken = Dataset()
    broken.add_new("SeriesNumber", "LO", "PID-4711")
    broken["SeriesNumber"].VR = "SQ"  # the dictionary has IS

    lane = lane_with_headers(new_lane, instance, "SeriesNumber", broken)

    assert ["SeriesNumber (0020,0011), which groups instances, has a value that cannot be read"] == lane.quarantined
