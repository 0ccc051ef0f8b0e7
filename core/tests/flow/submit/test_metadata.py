"""Configured DICOM attributes as metadata of a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO, cast

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_adapter.api.values import JobState
from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.submit.metadata import VALUE_BYTES, read_metadata
from dicom_adapter.operations.story import make_story
from dicom_adapter.testing import Adapter
from support.odd_data_sets import ODD, reversed_elements, with_nested_sequences


def stored(**attributes: Any) -> BytesIO:
    """Return a Part 10 file with these attributes."""
    file = BytesIO()
    make_instance(**attributes).save_as(file, enforce_file_format=True)
    return BytesIO(file.getvalue())


def test_one_value_is_named_by_its_tag() -> None:
    """The name is eight upper-case hexadecimal digits. A value that all instances share occurs once."""
    files = [stored(StudyDescription="THORAX", AccessionNumber="A1") for _ in range(3)]
    assert {"00081030": "THORAX", "00080050": "A1"} == read_metadata(files, ["StudyDescription", "AccessionNumber"])


def test_several_distinct_values_are_numbered_in_the_order_of_the_instances() -> None:
    """The suffixes start at -0. A value that occurs again is not repeated."""
    files = [stored(StudyDescription=text) for text in ("THORAX", "HEAD", "THORAX", "ABDOMEN")]
    expected = {"00081030-0": "THORAX", "00081030-1": "HEAD", "00081030-2": "ABDOMEN"}
    assert expected == read_metadata(files, ["StudyDescription"])


def test_instances_without_the_attribute_are_ignored() -> None:
    """Absent and empty attributes have no value."""
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
    """The limit is 256 bytes of UTF-8. A character is never split."""
    values = read_metadata([stored(SpecificCharacterSet="ISO_IR 192", PatientComments=text)], ["PatientComments"])
    assert {"00104000": expected} == values


def test_text_is_decoded_with_its_specific_character_set() -> None:
    """A name in Latin-1 keeps its umlauts."""
    file = stored(SpecificCharacterSet="ISO_IR 100", patient_name="Müller^Jörg")
    assert {"00100010": "Müller^Jörg"} == read_metadata([file], ["PatientName"])


def test_a_multiple_value_is_written_as_in_dicom() -> None:
    """The values are separated by backslashes."""
    assert {"00080008": "DERIVED\\SECONDARY"} == read_metadata(
        [stored(ImageType=["DERIVED", "SECONDARY"])], ["ImageType"]
    )


def test_zero_is_a_value() -> None:
    """The number 0 is not a missing value."""
    file = stored(instance_number=0, PatientWeight="0", SamplesPerPixel=0)
    expected = {"00200013": "0", "00101030": "0", "00280002": "0"}
    assert expected == read_metadata([file], ["InstanceNumber", "PatientWeight", "SamplesPerPixel"])


def test_sequences_and_bytes_are_ignored() -> None:
    """Sequences and bytes have no text. The operator did not name the elements of a sequence, so they are not read."""
    item = Dataset()
    item.CodeValue = "T-D4000"
    files = [stored(ProcedureCodeSequence=[item], EncapsulatedDocument=b"%PDF")]
    assert {} == read_metadata(files, ["ProcedureCodeSequence", "EncapsulatedDocument", "PixelData"])


def test_a_malformed_value_is_ignored() -> None:
    """A number of three bytes is invalid. The other attributes are used."""
    whole = stored(StudyDescription="HEAD").getvalue()
    rows, three_bytes = b"\x28\x00\x10\x00US\x02\x00\x40\x00", b"\x28\x00\x10\x00US\x03\x00\x40\x00\x00"
    assert 1 == whole.count(rows)
    file = BytesIO(whole.replace(rows, three_bytes))
    assert {"00081030": "HEAD"} == read_metadata([file], ["Rows", "StudyDescription"])


def test_every_file_is_closed_and_one_is_open_at_a_time() -> None:
    """A study of thousands of files must not exhaust the file descriptors of the process."""
    opened: list[BinaryIO] = []

    def one_by_one(make: Callable[[], BinaryIO]) -> Any:
        for _ in range(3):
            assert all(file.closed for file in opened)
            opened.append(make())
            yield opened[-1]

    read_metadata(one_by_one(stored), ["StudyDescription"])
    assert [True, True, True] == [file.closed for file in opened]


@pytest.mark.parametrize("make", ODD)
def test_a_data_set_that_cannot_be_parsed_loses_only_its_own_values(make: Callable[[Dataset], bytes]) -> None:
    """The values of the other instances are used. Each omitted value is reported, without patient data.

    Verified to fail when the errors of the parser are not caught.
    """
    odd = part10(make(make_instance(StudyDescription="HEAD", patient_name="Müller^Jörg")))
    files = [stored(StudyDescription="THORAX", patient_name="A^B"), odd]
    omitted: list[tuple[int, str, str]] = []  # position of the instance, keyword, reason
    metadata = read_metadata(files, ["StudyDescription", "PatientName"], lambda *omission: omitted.append(omission))
    values = set(metadata.values())
    assert {"THORAX", "A^B"} <= values  # the values of the other instance
    of_odd = {"StudyDescription": "HEAD", "PatientName": "Müller^Jörg"}
    assert values <= {"THORAX", "A^B", *of_odd.values()}  # no damaged value
    missing = {keyword for keyword, text in of_odd.items() if text not in values}
    assert missing == {keyword for _number, keyword, _reason in omitted}
    assert all(number == 1 for number, _keyword, _reason in omitted)  # only the odd instance
    assert not any("ller" in reason or "HEAD" in reason for _number, _keyword, reason in omitted)


def test_attributes_are_found_in_any_order_of_elements() -> None:
    """Elements in descending order are read like those in ascending order."""
    file = part10(reversed_elements(make_instance(StudyDescription="HEAD", patient_name="A^B")))
    assert {"00081030": "HEAD", "00100010": "A^B"} == read_metadata([file], ["StudyDescription", "PatientName"])


def part10(data_set: bytes) -> BytesIO:
    """Return a Part 10 file with an encoded data set."""
    return BytesIO(file_header("1.2", "1.3", ExplicitVRLittleEndian, "SENDER") + data_set)


@pytest.mark.parametrize("errors", [[], [OSError("away")]])
def test_a_job_with_an_odd_instance_is_submitted(
    make_adapter: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch, errors: list[OSError]
) -> None:
    """`explain` names the attributes and the first instance. An outage of the storage is retried.

    Verified to fail when the errors of the parser are not caught: the job is faulted, as if the submitter had a bug.
    """
    adapter = make_adapter(CONFIGURATION.format(keywords='["StudyDescription"]'))
    adapter.receive(make_instance(study_uid="1.1", StudyDescription="HEAD"), ae_title="LUNG")
    monkeypatch.setattr("dicom_adapter.simulation.adapter.encode", with_nested_sequences)
    adapter.receive(make_instance(study_uid="1.1", StudyDescription="ODD"), ae_title="LUNG")
    failing = list(errors)
    monkeypatch.setattr(adapter.storage, "read", failing_at_first(adapter.storage.read, failing))
    adapter.advance(60)
    [job] = adapter.jobs
    assert JobState.SUBMITTED is job.state
    assert "HEAD" == adapter.platform.jobs[job.job_id].metadata["00081030"]
    with adapter.ledger.read() as transaction:
        [section] = make_story(transaction, "1.1", adapter.clock.now()).sections
    [text] = [entry.text for entry in section.entries if entry.kind == "job_metadata_incomplete"]
    assert "has no value of StudyDescription from 1 instance (the first is 2): its header cannot be parsed" in text


def failing_at_first(read: Callable[[str], BinaryIO], errors: list[OSError]) -> Callable[[str], BinaryIO]:
    """Return a function that opens files whose first reads fail with these errors."""

    class Failing:
        def __init__(self, key: str) -> None:
            self._file = read(key)

        def read(self, size: int = -1) -> bytes:
            if errors:
                raise errors.pop()
            return self._file.read(size)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    return cast("Callable[[str], BinaryIO]", Failing)


# --- metadata on the platform ---------------------------------------------------------------------------------------

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
def test_a_job_has_its_source_its_instances_and_the_configured_attributes_as_metadata(
    make_adapter: Callable[..., Adapter], keywords: list[str], attributes: dict[str, str]
) -> None:
    """`Source` is the AE title with its processor, `Instances` the number of instances. There is no other metadata."""
    adapter = make_adapter(CONFIGURATION.format(keywords=json.dumps(keywords)))
    study = [make_instance(seed="s", instance_number=n, StudyDescription="HEAD") for n in (1, 2, 3)]
    adapter.receive(*study, ae_title="LUNG")
    adapter.advance(5)
    (job,) = adapter.jobs
    sent = adapter.platform.jobs[job.job_id].metadata
    assert {"Source": "LUNG (by-study)", "Instances": "3", **attributes} == sent
    assert {"Source": "LUNG (by-study)", "Instances": "3"} == job.metadata
