"""The example of a pipeline: its results are valid DICOM and belong to the study of their input."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, JPEGBaseline8Bit

from dicom_adapter.testing import make_instance, make_study, write
from dicom_adapter_pipelines import example

Run = Callable[..., "list[Dataset]"]
IMAGES = ["CT", "MR", "CR", "DX", "US", "OT"]
COPIED = [*example.ALWAYS_COPIED, *example.COPIED]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs the pipeline with these instances, and returns the results: image, report."""

    def call(*instances: Dataset, status: int = 0) -> list[Dataset]:
        source, output = tmp_path / "input", tmp_path / "output"
        source.mkdir()
        output.mkdir()
        for number, instance in enumerate(instances):
            write(instance, source / f"{number}.dcm")
        (source / "notes.txt").write_text("not DICOM")
        process = subprocess.run(
            [sys.executable, "-m", "dicom_adapter_pipelines.example", source, output],
            capture_output=True,
            text=True,
            check=False,
        )
        assert status == process.returncode, process.stderr
        return [dcmread(path) for path in sorted(output.iterdir())]

    return call


def required(program: str) -> str:
    """Return the path of a validator. Skip the test if it is missing and not required."""
    found = shutil.which(program)
    if found is None:
        if program in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail(f"{program} is not installed, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
        pytest.skip(f"{program} is not installed")
    return found


@pytest.mark.dciodvfy
@pytest.mark.parametrize("modality", IMAGES)
def test_a_validator_finds_no_error_in_the_results(run: Run, modality: str) -> None:
    """dicom3tools' dciodvfy compares the results with the IODs of PS3.3. It reports neither errors nor warnings."""
    validator = required("dciodvfy")
    for result in run(*make_study(modality=modality, series=2, instances=2)):
        found = subprocess.run([validator, result.filename], capture_output=True, text=True, check=False)
        assert (0, 1) == (found.returncode, len(found.stderr.splitlines())), found.stderr  # the line names the IOD


@pytest.mark.dcmtk
def test_the_report_has_a_valid_tree(run: Run) -> None:
    """DCMTK's dsrdump checks the relationships of the content items, which dciodvfy does not."""
    program = required("dsrdump")
    _, report = run(*make_study())
    found = subprocess.run([program, report.filename], capture_output=True, text=True, check=False)
    assert 0 == found.returncode
    assert [] == [line for line in found.stderr.splitlines() if line.startswith("E:")]
    assert "<inferred from IMAGE:=(CT image,)>" in found.stdout


def test_results_belong_to_the_patient_and_the_study(run: Run) -> None:
    """The results have new UIDs of series and instance. Texts in any character set are unchanged."""
    study = make_study(
        patient_id="PID-4711",
        issuer="HERE",
        patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう",
        accession_number="A-1",
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        StudyDescription="Thorax",
    )
    image, report = run(*study)
    for result in (image, report):
        assert [study[0].get(keyword) for keyword in COPIED] == [result.get(keyword) for keyword in COPIED]
        assert {result.SeriesInstanceUID, result.SOPInstanceUID}.isdisjoint(
            {one.SOPInstanceUID for one in study} | {one.SeriesInstanceUID for one in study}
        )
    assert image.SOPInstanceUID != report.SOPInstanceUID
    assert ("OT", "SR") == (image.Modality, report.Modality)


def test_results_refer_to_their_source(run: Run) -> None:
    """The report lists all instances of the study and the new image as evidence."""
    study = make_study(series=2, instances=3)
    image, report = run(*study)
    [source] = image.SourceImageSequence
    [evidence] = report.CurrentRequestedProcedureEvidenceSequence
    referenced = {
        one.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert source.ReferencedSOPInstanceUID in {one.SOPInstanceUID for one in study}
    assert {one.SOPInstanceUID for one in study} | {image.SOPInstanceUID} == referenced
    purposes = [one.PurposeOfReferenceCodeSequence[0].CodeMeaning for one in image.ContributingEquipmentSequence]
    assert ["Acquisition Equipment", "Processing Equipment"] == purposes


def test_the_brightest_region_is_framed(run: Run) -> None:
    """The image has 16 x 16 pixels and 8 x 8 tiles. A white pixel at row 5, column 12 is in the tile at (5, 11)."""
    image = make_instance(modality="OT", rows=16, columns=16)
    pixels = bytearray(256)
    pixels[4 * 16 + 11] = 200
    image.PixelData = bytes(pixels)
    capture, report = run(image)
    expected = [(row, column) for row in (4, 5) for column in (10, 11)]
    assert expected == [divmod(position, 16) for position, value in enumerate(capture.PixelData) if value]
    assert "row 5, column 11" in report.ContentSequence[4].TextValue


@pytest.mark.parametrize("case", ["signed", "big endian", "inverted", "large", "compressed", "truncated"])
def test_any_image_has_results(run: Run, case: str) -> None:
    """An image whose pixels cannot be read is shown black. A large image is reduced."""
    image = make_instance(rows=1030 if case == "large" else 20, columns=19)
    if case == "signed":
        image.PixelRepresentation = 1
        image.PixelData = b"".join((value - 200).to_bytes(2, "little", signed=True) for value in range(380))
    elif case == "big endian":
        image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    elif case == "inverted":
        image.PhotometricInterpretation = "MONOCHROME1"
    elif case == "compressed":
        image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        image.PixelData = bytes.fromhex("feff00e000000000 feff00e004000000 ffd8ffd9 feffdde000000000")
        image["PixelData"].is_undefined_length = True
    elif case == "truncated":
        image.PixelData = image.PixelData[:10]
    capture, _ = run(image)
    assert (
        (344, 7) == (capture.Rows, capture.Columns) if case == "large" else (20, 19) == (capture.Rows, capture.Columns)
    )
    assert capture.Rows * capture.Columns == len(capture.PixelData)
    # An image that cannot be read is black, with a white frame.
    values = {255} if case in ("compressed", "truncated") else set(range(256))
    assert set(capture.PixelData) - {0} <= values


def test_each_study_has_results_of_its_own(run: Run) -> None:
    """A job may contain several studies of a patient."""
    first, second = make_study(), make_study()
    results = run(*first, *second)
    assert 4 == len(results)
    assert {first[0].StudyInstanceUID, second[0].StudyInstanceUID} == {one.StudyInstanceUID for one in results}


def test_input_without_an_image_is_a_failure(run: Run) -> None:
    """The exit status is 1, and there is no output."""
    assert [] == run(make_instance(modality="SR"), status=1)
