"""Pixels and positions of synthetic images."""

from __future__ import annotations

import struct
from typing import Any

from dicom_adapter.dicom.synthetic.modalities import Modality
from dicom_adapter.dicom.synthetic.uids import make_uid

SLICE_MM = 2.5  # distance between adjacent slices
STRIPE = 16  # pixels from one diagonal stripe to the next


def plane(series_uid: str, instance_number: int) -> dict[str, Any]:
    """Return the frame of reference and image plane modules of a slice. The slices of a series are adjacent."""
    return {
        "PatientPosition": "HFS",
        "FrameOfReferenceUID": make_uid(series_uid, "frame of reference"),
        "PositionReferenceIndicator": "",
        "ImagePositionPatient": position(instance_number),
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
        "SliceThickness": SLICE_MM,
    }


def position(instance_number: int) -> list[float]:
    """Return the position of a slice in patient coordinates, in millimetres."""
    return [0, 0, SLICE_MM * (instance_number - 1)]


def image(kind: Modality, rows: int, columns: int, instance_number: int) -> dict[str, Any]:
    """Return the image pixel module."""
    return {
        "BurnedInAnnotation": "NO",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 8 if kind.bits_stored == 8 else 16,
        "BitsStored": kind.bits_stored,
        "HighBit": kind.bits_stored - 1,
        "PixelRepresentation": 0,
        "PixelData": _pixels(kind, rows, columns, instance_number),
    }


def _pixels(kind: Modality, rows: int, columns: int, shift: int) -> bytes:
    """Return diagonal stripes from black to white, shifted by one pixel for each instance."""
    step = (1 << kind.bits_stored) // STRIPE
    levels = [struct.pack("<B" if kind.bits_stored == 8 else "<H", step * level) for level in range(STRIPE)]
    size = len(levels[0])  # bytes of a pixel
    stripes = b"".join(levels) * (columns // STRIPE + 2)
    starts = ((row + shift) % STRIPE * size for row in range(rows))
    pixels = b"".join(stripes[start : start + columns * size] for start in starts)
    return pixels + b"\x00" * (len(pixels) % 2)
