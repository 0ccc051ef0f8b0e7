"""The decision about each output of a job."""

from __future__ import annotations

import pytest
from attrs import evolve

from dicom_adapter.dicom.identity import Identity
from dicom_adapter.dicom.part10_reader import FileOfUnknownOrigin
from dicom_adapter.flow.results.check import Expected, KnownInstance, OutputKind, Verdict, judge

SC = "1.2.840.10008.5.1.4.1.1.7"
EXPECTED = Expected(patients={"1.2.3": {"P1"}, "1.2.4": {"P2", ""}})
GOOD = FileOfUnknownOrigin(
    is_part10=True,
    size_bytes=1000,
    checksum=1,
    identity=Identity(
        sop_class_uid=SC,
        sop_instance_uid="2.25.7",
        study_instance_uid="1.2.3",
        series_instance_uid="2.25.8",
        patient_id="P1",
        issuer_of_patient_id="",
    ),
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    header_sop_class_uid=SC,
    header_sop_instance_uid="2.25.7",
)


def reason_for(known: KnownInstance | None = None, *, is_repeated: bool = False, **changes: str) -> str:
    """Return why an output is quarantined. `changes` are values of its identity; its header has no UIDs to compare."""
    output = evolve(
        GOOD, identity=evolve(GOOD.identity, **changes), header_sop_class_uid="", header_sop_instance_uid=""
    )
    verdict = judge(output, EXPECTED, known, is_repeated=is_repeated)
    assert (OutputKind.BAD if verdict.reason else OutputKind.GOOD) is verdict.kind
    return verdict.reason


def test_a_new_instance_of_the_patient_is_good() -> None:
    assert Verdict(kind=OutputKind.GOOD) == judge(GOOD, EXPECTED, None, is_repeated=False)


def test_a_file_that_is_not_dicom_is_an_attachment() -> None:
    output = evolve(GOOD, is_part10=False)
    assert Verdict(kind=OutputKind.ATTACHMENT) == judge(output, EXPECTED, None, is_repeated=True)


def test_the_problem_of_a_file_is_the_reason() -> None:
    output = evolve(GOOD, problem="it ends in the middle of its header")
    verdict = judge(output, EXPECTED, None, is_repeated=False)
    assert Verdict(kind=OutputKind.BAD, reason="it ends in the middle of its header") == verdict


@pytest.mark.parametrize("study", ["1.2", "1.2.30", "1.2.3.4"])
def test_a_study_that_is_not_of_an_input_is_refused(study: str) -> None:
    assert "its Study Instance UID is not that of an input of the job" == reason_for(study_instance_uid=study)


@pytest.mark.parametrize(
    ("study", "patient", "expected"),
    [
        ("1.2.3", "P1", True),
        ("1.2.3", "P2", False),  # the patient of the other study
        ("1.2.3", "", False),
        ("1.2.3", "p1", False),
        ("1.2.4", "P2", True),
        ("1.2.4", "", True),
        ("1.2.4", "P1", False),
    ],
)
def test_the_patient_must_be_that_of_the_inputs_of_the_same_study(study: str, patient: str, expected: bool) -> None:
    """The reason does not have the Patient ID."""
    reason = reason_for(study_instance_uid=study, patient_id=patient)
    assert ("" if expected else "its Patient ID is not that of the inputs of its study") == reason


@pytest.mark.parametrize("uid", ["1.02.3", "1..2", ".1.2", "1.2.", "1", "00.1", "1." + "2" * 63])
@pytest.mark.parametrize("name", ["sop_instance_uid", "series_instance_uid", "sop_class_uid"])
def test_a_malformed_uid_is_refused(name: str, uid: str) -> None:
    assert "is not valid" in reason_for(**{name: uid})


@pytest.mark.parametrize(
    ("sop_class", "reason"),
    [
        ("1.2.840.10008.1.1", "is not a storage SOP class"),  # Verification
        ("1.2.840.10008.5.1.4.31", "is not a storage SOP class"),  # Modality Worklist
        ("1.2.840.10008.1.2.1", "is not a storage SOP class"),  # a transfer syntax
        ("1.2.840.10008.1.3.10", "is not a storage SOP class"),  # Media Storage Directory
        ("1.2.840.10008.5.1.4.38.1", "is not for instances of patients"),  # Hanging Protocol
        ("1.2.276.0.7230010.3.1.0.1", ""),  # private
        ("1.2.840.10008.5.1.4.1.1.88.33", ""),  # Comprehensive SR
        ("1.2.840.10008.5.1.4.1.1.66.4", ""),  # Segmentation
        ("1.2.840.10008.5.1.4.1.1.481.3", ""),  # RT Structure Set
    ],
)
def test_the_sop_class_must_be_a_storage_class(sop_class: str, reason: str) -> None:
    found = reason_for(sop_class_uid=sop_class)
    assert reason in found
    assert bool(reason) is bool(found)


@pytest.mark.parametrize("changes", [{"header_sop_instance_uid": "2.25.70"}, {"header_sop_class_uid": SC + ".1"}])
def test_the_header_must_agree_with_the_data_set(changes: dict[str, str]) -> None:
    verdict = judge(evolve(GOOD, **changes), EXPECTED, None, is_repeated=False)
    assert "in its header is not that of its data set" in verdict.reason


@pytest.mark.parametrize(
    ("known", "is_repeated", "reason"),
    [
        (KnownInstance(instance_id=5, source_job=None, is_input=True), False, "an input of the job, instance 5"),
        (KnownInstance(instance_id=5, source_job=3, is_input=False), False, "an earlier result, instance 5"),
        (KnownInstance(instance_id=5, source_job=3, is_input=True), False, "an input of the job, instance 5"),
        (KnownInstance(instance_id=5, source_job=None, is_input=False), False, "a received instance, instance 5"),
        (None, True, "another output of the job has the same SOP Instance UID"),
    ],
)
def test_a_copy_is_refused(known: KnownInstance | None, is_repeated: bool, reason: str) -> None:
    """A copy of an input would replace the source image in the PACS."""
    assert reason in reason_for(known, is_repeated=is_repeated)
