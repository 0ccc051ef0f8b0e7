"""Content of instances that are not images: a report and a segmentation."""

from __future__ import annotations

from typing import Any

from dicom_adapter.dicom.synthetic.codes import code, item
from dicom_adapter.dicom.synthetic.images import SLICE_MM, position
from dicom_adapter.dicom.synthetic.uids import make_uid


def report(instance_number: int) -> dict[str, Any]:
    """Return the content of a Basic Text SR with one sentence (PS3.3 A.35.1)."""
    sentence = item(
        RelationshipType="CONTAINS",
        ValueType="TEXT",
        ConceptNameCodeSequence=[code("121071", "DCM", "Finding")],
        TextValue=f"Synthetic finding {instance_number}: none.",
    )
    return {
        "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED",
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": [code("18748-4", "LN", "Diagnostic Imaging Report")],
        "ContinuityOfContent": "SEPARATE",
        "ContentSequence": [sentence],
    }


def segmentation(series_uid: str, rows: int, columns: int, instance_number: int) -> dict[str, Any]:
    """Return one binary segment on one frame: the upper half of the image (PS3.3 A.51)."""
    return {
        **_frames(series_uid, instance_number),
        "ContentLabel": "SYNTHETIC",
        "ContentDescription": "",
        "ContentCreatorName": "",
        "SegmentationType": "BINARY",
        "LossyImageCompression": "00",
        "SegmentSequence": [_segment()],
        "ImageType": ["DERIVED", "PRIMARY"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "PixelData": _upper_half(rows, columns),
    }


def _segment() -> Any:
    return item(
        SegmentNumber=1,
        SegmentLabel="Upper half",
        SegmentAlgorithmType="MANUAL",
        SegmentedPropertyCategoryCodeSequence=[code("91723000", "SCT", "Anatomical Structure")],
        SegmentedPropertyTypeCodeSequence=[code("39607008", "SCT", "Lung")],
    )


def _frames(series_uid: str, instance_number: int) -> dict[str, Any]:
    """Return the functional groups of the frame: its position, and its dimension indexes by segment and position."""
    organization = make_uid(series_uid, "dimension organization")
    pointers = [(0x0062000B, 0x0062000A), (0x00200032, 0x00209113)]  # segment number and image position
    dimensions = [
        item(DimensionOrganizationUID=organization, DimensionIndexPointer=pointer, FunctionalGroupPointer=group)
        for pointer, group in pointers
    ]
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=SLICE_MM)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        SegmentIdentificationSequence=[item(ReferencedSegmentNumber=1)],
    )
    frame = item(
        FrameContentSequence=[item(DimensionIndexValues=[1, 1])],
        PlanePositionSequence=[item(ImagePositionPatient=position(instance_number))],
    )
    return {
        "FrameOfReferenceUID": make_uid(series_uid, "frame of reference"),
        "PositionReferenceIndicator": "",
        "NumberOfFrames": 1,
        "DimensionOrganizationSequence": [item(DimensionOrganizationUID=organization)],
        "DimensionIndexSequence": dimensions,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": [frame],
    }


def _upper_half(rows: int, columns: int) -> bytes:
    """Return pixels of one bit (1 in the upper half), eight in a byte, the first in the lowest bit (PS3.5 8.1.1)."""
    pixels = (1 << (rows // 2) * columns) - 1
    size = (rows * columns + 7) // 8
    return pixels.to_bytes(size + size % 2, "little")
