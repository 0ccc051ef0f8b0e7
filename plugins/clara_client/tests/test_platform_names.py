"""Names of jobs and files on the platform: always valid, and without patient data."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_adapter import InstanceStorageInfo, Upload
from dicom_adapter_clara_client.emulator.rules import check_job_name, stored_name
from dicom_adapter_clara_client.platform_names import file_name, job_name, upload_name


def upload_of(uid: str, position: int = 0, patient_id: str = "P1") -> Upload:
    instance = InstanceStorageInfo(
        instance_id=1,
        ae_title="LUNG",
        calling_ae_title="CT1",
        peer_address="192.0.2.1",
        association_id="a1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=uid,
        study_instance_uid="1.2.4",
        series_instance_uid="1.2.5",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_id=patient_id,
        issuer_of_patient_id="",
        received_at=datetime(2024, 5, 1, tzinfo=timezone.utc),
        storage_key="key",
        size_bytes=4,
        checksum=0,
    )
    return Upload(instance=instance, position=position, size_bytes=4, open=lambda: BytesIO(b"data"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LUNG-lung-20240501120000", "lung-lung-20240501120000"),
        ("CT_1 (new)--seg!-20240501120000", "ct-1-new-seg-20240501120000"),
        ("--LUNG--", "lung"),
        ("LÜNGE", "l-nge"),
        ("\N{KELVIN SIGN}1", "1"),  # not ASCII and therefore removed, although its lower case is the ASCII letter k
        (63 * "a", 63 * "a"),
        (70 * "a", 41 * "a" + "-" + 21 * "a"),
        (62 * "a" + "-b", 41 * "a" + "-" + 19 * "a" + "-b"),
        (40 * "a" + "-" + 22 * "b" + "-c", 40 * "a" + "-" + 19 * "b" + "-c"),
        (50 * "a" + "--" + 20 * "b", 42 * "a" + "-" + 20 * "b"),
        ("", "job"),
        ("___", "job"),
    ],
)
def test_a_jobs_name_is_converted_to_a_valid_name(name: str, expected: str) -> None:
    """A name has at most 63 characters in lower case.

    Each run of characters other than a-z and 0-9 becomes one dash. Dashes at the ends are removed.
    """
    assert expected == job_name(name)


def test_long_names_of_one_group_differ() -> None:
    """The processor distinguishes jobs at the ends of their names.

    Verified to fail when a long name is cut at its end.
    """
    pipelines = [f"{'segmentation-of-lobes-' * 3}{number}" for number in (1, 2)]
    names = [
        f"LUNG-{pipeline}-20240501120000-{digits}"
        for pipeline, digits in zip(pipelines, ("a1b2c3", "d4e5f6"), strict=True)
    ]
    assert ["a1b2c3", "d4e5f6"] == [job_name(name).rpartition("-")[2] for name in names]
    assert [63, 63] == [len(job_name(name)) for name in names]


@given(st.text())
def test_any_text_is_converted_to_a_valid_name(name: str) -> None:
    """Every result satisfies the platform's rule; converting it again does not change it."""
    converted = job_name(name)
    check_job_name(converted)
    assert converted == job_name(converted)


def test_a_file_is_named_by_position_and_uid() -> None:
    """Files are sorted in the order of the job and can be found by SOP Instance UID."""
    assert "dcm/000007-1.2.840.1.5.dcm" == upload_name(upload_of("1.2.840.1.5", 7))


def test_instances_with_the_same_uid_are_two_files() -> None:
    """The names differ in the position in the job."""
    first, second = upload_of("1.2.3", 0), upload_of("1.2.3", 1)
    assert {"000000-1.2.3.dcm", "000001-1.2.3.dcm"} == {file_name(first), file_name(second)}


@pytest.mark.parametrize("uid", ["..", ".", "1.2.3/../..", "", "1.2\n", 65 * "1", "DOE^JANE"])
def test_a_uid_cannot_change_the_folder(uid: str) -> None:
    """A UID of dots is only part of a name; an invalid UID is omitted."""
    name = upload_name(upload_of(uid, 1234567))
    assert re.fullmatch(r"dcm/1234567(-\.\.?)?\.dcm", name)
    assert name == stored_name(name)


def test_a_patients_id_is_not_in_the_name() -> None:
    """The name does not depend on the patient."""
    assert upload_name(upload_of("1.2.3")) == upload_name(upload_of("1.2.3", patient_id="0815"))
