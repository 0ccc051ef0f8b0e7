"""Attributes of each modality, in addition to the attributes of all instances (PS3.3 annex A)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
)

from dicom_adapter.dicom.synthetic.codes import code


@frozen(kw_only=True)
class Modality:
    """A SOP class, and the attributes of its instances."""

    sop_class: UID
    content: Literal["image", "report", "segmentation"] = "image"
    bits_stored: int = 12
    attributes: Mapping[str, Any] = field(factory=dict)
    has_planes: bool = False  # the images have a position in patient coordinates (PS3.3 C.7.6.2 and C.7.4.1)


MODALITIES: Mapping[str, Modality] = {
    "CT": Modality(
        sop_class=CTImageStorage,
        has_planes=True,
        attributes={
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "BodyPartExamined": "CHEST",
            "RescaleIntercept": -1024,
            "RescaleSlope": 1,
            "RescaleType": "HU",
            "KVP": 120,
            "AcquisitionNumber": 1,
        },
    ),
    "MR": Modality(
        sop_class=MRImageStorage,
        has_planes=True,
        attributes={
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "BodyPartExamined": "HEAD",
            "ScanningSequence": "SE",
            "SequenceVariant": "NONE",
            "ScanOptions": "",
            "MRAcquisitionType": "2D",
            "RepetitionTime": 500,
            "EchoTime": 15,
            "EchoTrainLength": 1,
        },
    ),
    "CR": Modality(
        sop_class=ComputedRadiographyImageStorage,
        attributes={"BodyPartExamined": "CHEST", "ViewPosition": "PA", "PatientOrientation": ["L", "F"]},
    ),
    "DX": Modality(
        sop_class=DigitalXRayImageStorageForPresentation,
        attributes={
            "ImageType": ["ORIGINAL", "PRIMARY", ""],
            "PresentationIntentType": "FOR PRESENTATION",
            "BodyPartExamined": "CHEST",
            "AnatomicRegionSequence": [code("43799004", "SCT", "Intra-thoracic structure")],
            "ImageLaterality": "U",
            "PatientOrientation": ["L", "F"],
            "DetectorType": "DIRECT",
            "ImagerPixelSpacing": [0.2, 0.2],
            "PixelIntensityRelationship": "LIN",
            "PixelIntensityRelationshipSign": 1,
            "RescaleIntercept": 0,
            "RescaleSlope": 1,
            "RescaleType": "US",
            "WindowCenter": 2048,
            "WindowWidth": 4096,
            "PresentationLUTShape": "IDENTITY",
            "LossyImageCompression": "00",
            "AcquisitionContextSequence": [],
        },
    ),
    "US": Modality(
        sop_class=UltrasoundImageStorage,
        bits_stored=8,
        attributes={
            "ImageType": ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"],
            "BodyPartExamined": "ABDOMEN",
            "PatientOrientation": "",
        },
    ),
    "OT": Modality(
        sop_class=SecondaryCaptureImageStorage,
        bits_stored=8,
        attributes={"ConversionType": "WSD", "BodyPartExamined": "ABDOMEN", "PatientOrientation": ""},
    ),
    "SR": Modality(
        sop_class=BasicTextSRStorage,
        content="report",
        attributes={"ReferencedPerformedProcedureStepSequence": [], "PerformedProcedureCodeSequence": []},
    ),
    "SEG": Modality(
        sop_class=SegmentationStorage,
        content="segmentation",
        attributes={
            "ManufacturerModelName": "synthetic",
            "DeviceSerialNumber": "1",
            "SoftwareVersions": "1",
        },
    ),
}
