"""Synthetic instances are valid, writable without a warning, and either unique or reproducible."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicom_adapter.dicom import synthetic
from dicom_adapter.dicom.identity import identify

COMMON_TYPE_1 = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"]
TYPE_1 = {
    "CT": ["ImageType", "FrameOfReferenceUID", "PixelSpacing", "ImagePositionPatient", "RescaleSlope"],
    "MR": ["ImageType", "FrameOfReferenceUID", "PixelSpacing", "ScanningSequence", "SequenceVariant"],
    "CR": [],
    "DX": ["ImageType", "PresentationIntentType", "ImageLaterality", "ImagerPixelSpacing", "PresentationLUTShape"],
    "US": [],
    "OT": ["ConversionType"],
    "SR": ["CompletionFlag", "ValueType", "ConceptNameCodeSequence", "ContentSequence"],
    "SEG": ["SegmentationType", "SegmentSequence", "NumberOfFrames", "PerFrameFunctionalGroupsSequence"],
}
IMAGE_TYPE_1 = ["SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "PixelData"]
IMAGES = [name for name, kind in synthetic.MODALITIES.items() if kind.content == "image"]


def written(dataset: Dataset, folder: Path) -> Dataset:
    synthetic.write(dataset, folder / "instance.dcm")
    return dcmread(folder / "instance.dcm")


@pytest.mark.parametrize("modality", synthetic.MODALITIES)
@pytest.mark.parametrize(
    "transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_modality_can_be_written_and_read_again(modality: str, transfer_syntax: UID, tmp_path: Path) -> None:
    """The data set that is read equals the one that was written, in every transfer syntax."""
    dataset = synthetic.make_instance(modality=modality, transfer_syntax=transfer_syntax)
    read = written(dataset, tmp_path)
    assert transfer_syntax == read.file_meta.TransferSyntaxUID
    assert {element.tag: element.value for element in dataset} == {element.tag: element.value for element in read}


@pytest.mark.parametrize("modality", synthetic.MODALITIES)
def test_required_attributes_have_a_value(modality: str, tmp_path: Path) -> None:
    """Type 1 attributes of the IOD are present and not empty."""
    read = written(synthetic.make_instance(modality=modality), tmp_path)
    required = COMMON_TYPE_1 + TYPE_1[modality] + (IMAGE_TYPE_1 if modality in IMAGES else [])
    assert [] == [keyword for keyword in required if read.get(keyword) in (None, "")]


@pytest.mark.dciodvfy
@pytest.mark.parametrize("modality", synthetic.MODALITIES)
def test_a_validator_finds_no_error(modality: str, tmp_path: Path) -> None:
    """dicom3tools' dciodvfy compares the instance with the IOD of PS3.3. It reports neither errors nor warnings."""
    validator = shutil.which("dciodvfy")
    if validator is None:
        if "dciodvfy" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail("dciodvfy is not installed, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    dataset = synthetic.make_study(modality=modality, series=1, instances=2)[1]
    synthetic.write(dataset, tmp_path / "instance.dcm")
    run = subprocess.run([validator, tmp_path / "instance.dcm"], capture_output=True, text=True, check=False)
    assert (0, 1) == (run.returncode, len(run.stderr.splitlines())), run.stderr  # the only line names the IOD


@pytest.mark.parametrize("modality", IMAGES)
def test_pixel_data_has_the_size_that_its_attributes_define(modality: str) -> None:
    """The size is rows x columns x bytes, padded to an even length. The values are not all equal."""
    dataset = synthetic.make_instance(modality=modality, rows=5, columns=7)
    size = 5 * 7 * dataset.BitsAllocated // 8
    assert size + size % 2 == len(dataset.PixelData)
    assert len(set(dataset.PixelData)) > 2


def test_a_segment_is_the_upper_half_of_its_frame() -> None:
    """Each pixel has one bit, the first pixel in the lowest bit. The data is padded to an even length."""
    dataset = synthetic.make_instance(modality="SEG", rows=4, columns=5)
    assert ((1 << 10) - 1).to_bytes(4, "little") == dataset.PixelData


def test_uids_are_unique_by_default() -> None:
    """Two calls share no UID, and all UIDs have the root 2.25."""
    first, second = synthetic.make_instance(), synthetic.make_instance()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert first[keyword].value != second[keyword].value
        assert first[keyword].value.startswith("2.25.")
        assert first[keyword].value.is_valid


def test_a_seed_makes_a_study_reproducible() -> None:
    """The same seed gives equal data sets, another seed gives other UIDs."""
    study = synthetic.make_study(seed="a", series=2, instances=3)
    assert study == synthetic.make_study(seed="a", series=2, instances=3)
    assert study[0].StudyInstanceUID != synthetic.make_study(seed="b")[0].StudyInstanceUID


def test_a_study_has_the_requested_series_and_instances() -> None:
    """The study has one study UID, a UID for each series and instance, and one frame of reference for each series."""
    study = synthetic.make_study(modality="MR", series=2, instances=3, patient_id="P", accession_number="A1")
    assert 6 == len(study)
    assert [1, 2, 2, 6] == [
        len({dataset[keyword].value for dataset in study})
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
    ]
    assert {("P", "A1")} == {(dataset.PatientID, dataset.AccessionNumber) for dataset in study}
    assert [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)] == [
        (dataset.SeriesNumber, dataset.InstanceNumber) for dataset in study
    ]


def test_the_receiver_finds_the_attributes_of_a_synthetic_instance(tmp_path: Path) -> None:
    """The receiver reads the attributes for the ledger from the encoded data set."""
    dataset = synthetic.make_instance(patient_id="P1", issuer="HOSPITAL", patient_name="Müller^Ä")
    synthetic.write(dataset, tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    begin = 144 + dcmread(tmp_path / "a.dcm").file_meta.FileMetaInformationGroupLength
    identity = identify(content[begin:], ExplicitVRLittleEndian)
    assert ("P1", "HOSPITAL", dataset.SOPInstanceUID) == (
        identity.patient_id,
        identity.issuer_of_patient_id,
        identity.sop_instance_uid,
    )


def test_further_attributes_are_set_by_keyword() -> None:
    """An unknown keyword is refused instead of being set as a Python attribute."""
    assert "LUNG" == synthetic.make_instance(BodyPartExamined="LUNG").BodyPartExamined
    with pytest.raises(ValueError, match="'BodyPart' is not a DICOM keyword"):
        synthetic.make_instance(BodyPart="LUNG")


def test_unknown_modalities_and_transfer_syntaxes_are_refused() -> None:
    """The message names the unknown value."""
    with pytest.raises(ValueError, match="modality 'XX' is not one of CT, MR"):
        synthetic.make_instance(modality="XX")
    with pytest.raises(ValueError, match="is not one of Implicit VR Little Endian"):
        synthetic.make_instance(transfer_syntax=JPEGBaseline8Bit)
