"""Configured DICOM attributes as metadata of a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO

import pytest
from pydicom.dataset import Dataset

from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.submit.metadata import VALUE_BYTES, read_metadata
from dicom_adapter.testing import Adapter


def stored(**attributes: Any) -> BytesIO:
    """A Part 10 file with these attributes."""
    file = BytesIO()
    make_instance(**attributes).save_as(file, enforce_file_format=True)
    return BytesIO(file.getvalue())


def test_one_value_is_named_by_its_tag() -> None:
    """Eight upper-case hexadecimal digits; what all instances share is there once."""
    files = [stored(StudyDescription="THORAX", AccessionNumber="A1") for _ in range(3)]
    assert {"00081030": "THORAX", "00080050": "A1"} == read_metadata(files, ["StudyDescription", "AccessionNumber"])


def test_several_distinct_values_are_numbered_in_the_order_of_the_instances() -> None:
    """From -0 on; a value that comes again is not repeated."""
    files = [stored(StudyDescription=text) for text in ("THORAX", "HEAD", "THORAX", "ABDOMEN")]
    expected = {"00081030-0": "THORAX", "00081030-1": "HEAD", "00081030-2": "ABDOMEN"}
    assert expected == read_metadata(files, ["StudyDescription"])


def test_a_value_that_some_instances_lack_is_still_one_value() -> None:
    """Absent and empty attributes say nothing."""
    files = [stored(), stored(PatientComments=""), stored(PatientComments="HEAD")]
    assert {"00104000": "HEAD"} == read_metadata(files, ["PatientComments", "PatientAge"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * VALUE_BYTES, "x" * 256),
        ("x" * (VALUE_BYTES + 1), "x" * 256),
        ("ä" * 200, "ä" * 128),
        ("x" + "ä" * 200, "x" + "ä" * 127),
        ("xx" + "\U0001fa7b" * 100, "xx" + "\U0001fa7b" * 63),
    ],
)
def test_a_long_value_is_cut_between_characters(text: str, expected: str) -> None:
    """At 256 bytes of UTF-8, never within a character."""
    found = read_metadata([stored(SpecificCharacterSet="ISO_IR 192", PatientComments=text)], ["PatientComments"])
    assert {"00104000": expected} == found


def test_text_is_read_in_its_own_character_set() -> None:
    """A name in Latin-1 arrives with its umlauts."""
    file = stored(SpecificCharacterSet="ISO_IR 100", patient_name="Müller^Jörg")
    assert {"00100010": "Müller^Jörg"} == read_metadata([file], ["PatientName"])


def test_a_multiple_value_is_written_as_in_dicom() -> None:
    """With backslashes."""
    assert {"00080008": "DERIVED\\SECONDARY"} == read_metadata(
        [stored(ImageType=["DERIVED", "SECONDARY"])], ["ImageType"]
    )


def test_zero_is_a_value() -> None:
    """A number that is 0 is not missing."""
    file = stored(instance_number=0, PatientWeight="0", SamplesPerPixel=0)
    expected = {"00200013": "0", "00101030": "0", "00280002": "0"}
    assert expected == read_metadata([file], ["InstanceNumber", "PatientWeight", "SamplesPerPixel"])


def test_sequences_and_bytes_are_ignored() -> None:
    """They have no text; what a sequence holds was not asked for, and may be anything."""
    item = Dataset()
    item.CodeValue = "T-D4000"
    files = [stored(ProcedureCodeSequence=[item], EncapsulatedDocument=b"%PDF")]
    assert {} == read_metadata(files, ["ProcedureCodeSequence", "EncapsulatedDocument", "PixelData"])


def test_a_malformed_value_is_ignored() -> None:
    """A number of three bytes has no meaning; the other attributes have theirs."""
    whole = stored(StudyDescription="HEAD").getvalue()
    rows, three_bytes = b"\x28\x00\x10\x00US\x02\x00\x40\x00", b"\x28\x00\x10\x00US\x03\x00\x40\x00\x00"
    assert 1 == whole.count(rows)
    file = BytesIO(whole.replace(rows, three_bytes))
    assert {"00081030": "HEAD"} == read_metadata([file], ["Rows", "StudyDescription"])


def test_every_file_is_closed_and_one_is_open_at_a_time() -> None:
    """A study of thousands of files does not use up the process's descriptors."""
    opened: list[BinaryIO] = []

    def one_by_one(make: Callable[[], BinaryIO]) -> Any:
        for _ in range(3):
            assert all(file.closed for file in opened)
            opened.append(make())
            yield opened[-1]

    read_metadata(one_by_one(stored), ["StudyDescription"])
    assert [True, True, True] == [file.closed for file in opened]


# --- what the platform gets -----------------------------------------------------------------------------------------

CONFIGURATION = """
[ae-titles.LUNG]
processor = "by-study"
metadata = {keywords}
settings = {{ pipeline-one = "p1" }}
"""


@pytest.mark.parametrize(
    ("keywords", "attributes"),
    [
        ([], {}),
        (["StudyDescription", "PatientComments"], {"00081030": "HEAD"}),
        (["InstanceNumber"], {"00200013-0": "1", "00200013-1": "2", "00200013-2": "3"}),
    ],
)
def test_a_job_carries_its_source_its_instances_and_the_configured_attributes_and_nothing_else(
    make_adapter: Callable[..., Adapter], keywords: list[str], attributes: dict[str, str]
) -> None:
    """`Source` is the AE title with its processor, `Instances` their number."""
    adapter = make_adapter(CONFIGURATION.format(keywords=json.dumps(keywords)))
    study = [make_instance(seed="s", instance_number=n, StudyDescription="HEAD") for n in (1, 2, 3)]
    adapter.receive(*study, ae_title="LUNG")
    adapter.advance(5)
    (job,) = adapter.jobs
    sent = adapter.platform.jobs[job.job_id].metadata
    assert {"Source": "LUNG (by-study)", "Instances": "3", **attributes} == sent
    assert {"Source": "LUNG (by-study)", "Instances": "3"} == job.metadata
