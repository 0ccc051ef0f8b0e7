"""An example of a pipeline: it makes an image (Secondary Capture) and a report (Basic Text SR) for each study.

    python -m dicom_adapter_pipelines.example INPUT OUTPUT

The results are valid DICOM: they belong to the patient and the study of their input, have UIDs of their own, and refer
to the images from which they were made. **They are no diagnosis**: the image marks the brightest region.

The file needs pydicom and nothing else of dicom-adapter, so that it can be copied, also into a container image.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from array import array
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

NAME = "dicom-adapter example pipeline"
VERSION = "1"
SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
BASIC_TEXT_SR = UID("1.2.840.10008.5.1.4.1.1.88.11")
IMPLEMENTATION = UID("2.25.279160834419233612302461837318613209873")  # of this program, made from a random UUID
# Attributes of patient and study: with these copies, a result is part of the study of its input. Those of ALWAYS_COPIED
# are required, most with type 2: if the input lacks one, the result has it with an empty value.
ALWAYS_COPIED = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
]
COPIED = [
    "SpecificCharacterSet",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "OtherPatientIDsSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
]
# Attributes of the device that acquired the images.
EQUIPMENT = [
    "Manufacturer",
    "InstitutionName",
    "StationName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
]
LARGEST = 512  # rows and columns of the image; larger inputs are reduced
TILES = 8  # the brightest of 8 x 8 tiles is marked


def main() -> int:
    """Process a folder. Exit status: 0 if there are results, 1 if the folder has no image, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="dicom_adapter_pipelines.example", description="Make DICOM results.")
    # The defaults are the variables that dicom-adapter sets for every pipeline.
    parser.add_argument("input", nargs="?", default=os.environ.get("DICOM_ADAPTER_INPUT"), type=Path)
    parser.add_argument("output", nargs="?", default=os.environ.get("DICOM_ADAPTER_OUTPUT"), type=Path)
    arguments = parser.parse_args()
    if arguments.input is None or arguments.output is None:
        parser.error("name an input and an output folder")
    written = 0
    for number, instances in enumerate(studies(arguments.input), start=1):
        made = list(results(instances))
        for kind, result in made:
            dcmwrite(arguments.output / f"{number:03}-{kind}.dcm", result, enforce_file_format=True)
        print(f"study {number}: {len(instances)} instances read, {len(made)} results written", flush=True)  # noqa: T201 - the log of the job
        written += len(made)
    if not written:
        print(f"{arguments.input} contains no DICOM image: no result was made", file=sys.stderr)  # noqa: T201 - the log of the job
    return 0 if written else 1


def studies(folder: Path) -> Iterator[list[Dataset]]:
    """Yield the instances of each study below a folder, without their pixels. Other files are ignored."""
    found: dict[str, list[Dataset]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        if header.get("StudyInstanceUID") and header.get("SOPInstanceUID") and header.get("SeriesInstanceUID"):
            found.setdefault(header.StudyInstanceUID, []).append(header)
    yield from found.values()


def results(instances: Sequence[Dataset]) -> Iterator[tuple[str, Dataset]]:
    """Yield the results of one study, each with its kind; nothing for a study without an image."""
    images = [one for one in instances if one.get("Rows") and one.get("Columns")]
    if not images:
        return
    images.sort(key=lambda one: (one.SeriesInstanceUID, int(one.get("InstanceNumber") or 0)))
    source = images[len(images) // 2]
    image = secondary_capture(source)
    yield "image", image
    yield "report", report(instances, source, image)


# --- attributes of all results --------------------------------------------------------------------------------------


def new_result(source: Dataset, sop_class: UID, modality: str, series: tuple[int, str]) -> Dataset:
    """Return a data set with the patient and the study of `source`, and new UIDs of the series and the instance.

    `series` is the number and the description of the series.
    """
    now = datetime.now(timezone.utc).astimezone()
    result = Dataset()
    for keyword in ALWAYS_COPIED:
        setattr(result, keyword, deepcopy(source.get(keyword)))
    for keyword in COPIED:
        if keyword in source:
            result[keyword] = deepcopy(source[keyword])
    result.SOPClassUID = sop_class
    result.SOPInstanceUID = new_uid()
    result.SeriesInstanceUID = new_uid()
    result.Modality = modality
    result.SeriesNumber, result.SeriesDescription = series
    result.InstanceNumber = 1
    for keyword in ("InstanceCreation", "Series", "Content"):
        setattr(result, f"{keyword}Date", f"{now:%Y%m%d}")
        setattr(result, f"{keyword}Time", f"{now:%H%M%S}")
    result.Manufacturer = "dicom-adapter"
    result.ManufacturerModelName = NAME
    result.SoftwareVersions = VERSION
    result.ContributingEquipmentSequence = list(contributing_equipment(source, now))
    result.file_meta = FileMetaDataset()
    result.file_meta.MediaStorageSOPClassUID = sop_class
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.ImplementationClassUID = IMPLEMENTATION
    return result


def contributing_equipment(source: Dataset, now: datetime) -> Iterator[Dataset]:
    """Yield the device that acquired the images, and this program (PS3.3 C.12.1, CID 7005)."""
    if source.get("Manufacturer"):
        device = item(PurposeOfReferenceCodeSequence=[code("109101", "DCM", "Acquisition Equipment")])
        for keyword in EQUIPMENT:
            if source.get(keyword):
                device[keyword] = deepcopy(source[keyword])
        yield device
    yield item(
        PurposeOfReferenceCodeSequence=[code("109102", "DCM", "Processing Equipment")],
        Manufacturer="dicom-adapter",
        ManufacturerModelName=NAME,
        SoftwareVersions=VERSION,
        ContributionDateTime=f"{now:%Y%m%d%H%M%S}",
        ContributionDescription="Example result, made by a program",
    )


def item(**attributes: Any) -> Dataset:
    """Return one item of a sequence."""
    found = Dataset()
    for keyword, value in attributes.items():
        setattr(found, keyword, value)
    return found


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return one coded entry (PS3.3 section 8)."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def reference(instance: Dataset) -> Dataset:
    """Return a reference to an instance."""
    return item(ReferencedSOPClassUID=instance.SOPClassUID, ReferencedSOPInstanceUID=instance.SOPInstanceUID)


def new_uid() -> UID:
    """Return a UID from a random UUID (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid4().int}")


# --- the image --------------------------------------------------------------------------------------------------------


def secondary_capture(source: Dataset) -> Dataset:
    """Return a Secondary Capture (PS3.3 A.8.1) of the image: the brightest region is framed."""
    rows, columns, pixels = render(source)
    top, left = mark_brightest(rows, columns, pixels)
    result = new_result(source, SECONDARY_CAPTURE, "OT", (9001, "Example result: image"))
    for keyword in ("BodyPartExamined", "Laterality"):
        if keyword in source:
            result[keyword] = deepcopy(source[keyword])
    result.ConversionType = "WSD"  # Workstation
    result.DateOfSecondaryCapture, result.TimeOfSecondaryCapture = result.ContentDate, result.ContentTime
    result.ImageType = ["DERIVED", "SECONDARY"]
    result.PatientOrientation = ""
    result.BurnedInAnnotation = "NO"
    result.DerivationDescription = "Reduced to 8 bits; the brightest region is framed"
    result.ImageComments = f"Brightest region: row {top}, column {left}. Example, not for diagnosis."
    origin = reference(source)
    origin.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    result.SourceImageSequence = [origin]
    if source.get("LossyImageCompression") == "01":
        result.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if source.get(keyword):
                result[keyword] = deepcopy(source[keyword])
    result.SamplesPerPixel = 1
    result.PhotometricInterpretation = "MONOCHROME2"
    result.Rows, result.Columns = rows, columns
    result.BitsAllocated, result.BitsStored, result.HighBit, result.PixelRepresentation = 8, 8, 7, 0
    result.add_new("PixelData", "OB", bytes(pixels) + b"\0" * (len(pixels) % 2))
    return result


def render(header: Dataset) -> tuple[int, int, bytearray]:
    """Return rows, columns and pixels of 8 bits of an image; black if its pixels are compressed or in colour."""
    step = -(-max(header.Rows, header.Columns) // LARGEST)
    rows, columns = range(0, header.Rows, step), range(0, header.Columns, step)
    values = stored_values(header)
    if not values:
        return len(rows), len(columns), bytearray(len(rows) * len(columns))
    chosen = [values[row * header.Columns + column] for row in rows for column in columns]
    low, high = min(chosen), max(chosen)
    scale = 255 / (high - low or 1)
    pixels = bytearray(int((value - low) * scale) for value in chosen)
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        pixels = bytearray(255 - pixel for pixel in pixels)
    return len(rows), len(columns), pixels


def stored_values(header: Dataset) -> array[int] | None:
    """Return the pixels of the first frame; None if they are compressed, in colour, or incomplete."""
    image = dcmread(header.filename)
    syntax, bits = image.file_meta.TransferSyntaxUID, image.get("BitsAllocated")
    if syntax.is_compressed or image.get("SamplesPerPixel") != 1 or bits not in (8, 16) or "PixelData" not in image:
        return None
    values = array("HhBb"[(bits == 8) * 2 + (image.get("PixelRepresentation") == 1)])
    size = image.Rows * image.Columns * bits // 8
    if len(image.PixelData) < size:
        return None
    values.frombytes(image.PixelData[:size])
    if (syntax == ExplicitVRBigEndian) is not (sys.byteorder == "big"):
        values.byteswap()
    return values


def mark_brightest(rows: int, columns: int, pixels: bytearray) -> tuple[int, int]:
    """Draw a frame around the brightest tile. Return its first row and column, from 1."""
    height, width = max(1, rows // TILES), max(1, columns // TILES)

    def brightness(corner: tuple[int, int]) -> int:
        top, left = corner
        return sum(sum(pixels[row * columns + left : row * columns + left + width]) for row in range(top, top + height))

    lefts = range(0, columns - width + 1, width)
    top, left = max(((top, left) for top in range(0, rows - height + 1, height) for left in lefts), key=brightness)
    for row in range(top, top + height):
        is_edge = row in (top, top + height - 1)
        for column in range(left, left + width) if is_edge else (left, left + width - 1):
            pixels[row * columns + column] = 255
    return top + 1, left + 1


# --- the report -------------------------------------------------------------------------------------------------------


def report(instances: Sequence[Dataset], source: Dataset, image: Dataset) -> Dataset:
    """Return a Basic Text SR (PS3.3 A.35.1) about the study, with references to its instances and to the new image."""
    result = new_result(source, BASIC_TEXT_SR, "SR", (9002, "Example result: report"))
    result.ReferencedPerformedProcedureStepSequence = []
    result.PerformedProcedureCodeSequence = []
    result.CompletionFlag = "COMPLETE"
    result.VerificationFlag = "UNVERIFIED"
    result.CurrentRequestedProcedureEvidenceSequence = [evidence([*instances, image])]
    result.ValueType = "CONTAINER"
    result.ConceptNameCodeSequence = [code("18748-4", "LN", "Diagnostic imaging report")]
    result.ContinuityOfContent = "SEPARATE"
    sentence = f"{image.ImageComments} Instances: {len(instances)}."
    finding = content("TEXT", "CONTAINS", ("121071", "DCM", "Finding"), TextValue=sentence)
    finding.ContentSequence = [content("IMAGE", "INFERRED FROM", ReferencedSOPSequence=[reference(source)])]
    result.ContentSequence = [
        *observer(),
        finding,
        content("IMAGE", "CONTAINS", ReferencedSOPSequence=[reference(image)]),
    ]
    return result


def observer() -> Iterable[Dataset]:
    """Return the language of the report (TID 1204), and the program as its observer (TID 1004)."""
    english, device = [code("en", "RFC5646", "English")], [code("121007", "DCM", "Device")]
    names = {"language": ("121049", "DCM", "Language of Content Item and Descendants")}
    names |= {"type": ("121005", "DCM", "Observer Type"), "name": ("121013", "DCM", "Device Observer Name")}
    names |= {"uid": ("121012", "DCM", "Device Observer UID")}
    return [
        content("CODE", "HAS CONCEPT MOD", names["language"], ConceptCodeSequence=english),
        content("CODE", "HAS OBS CONTEXT", names["type"], ConceptCodeSequence=device),
        content("UIDREF", "HAS OBS CONTEXT", names["uid"], UID=IMPLEMENTATION),
        content("TEXT", "HAS OBS CONTEXT", names["name"], TextValue=NAME),
    ]


def content(kind: str, relationship: str, name: tuple[str, str, str] | None = None, **attributes: Any) -> Dataset:
    """Return one content item of a report (PS3.3 C.17.3)."""
    found = item(RelationshipType=relationship, ValueType=kind, **attributes)
    if name is not None:
        found.ConceptNameCodeSequence = [code(*name)]
    return found


def evidence(instances: Sequence[Dataset]) -> Dataset:
    """Return references to instances of one study, by series (PS3.3 C.17.2)."""
    series: dict[str, list[Dataset]] = {}
    for instance in instances:
        series.setdefault(instance.SeriesInstanceUID, []).append(reference(instance))
    return item(
        StudyInstanceUID=instances[0].StudyInstanceUID,
        ReferencedSeriesSequence=[
            item(SeriesInstanceUID=uid, ReferencedSOPSequence=one) for uid, one in series.items()
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
