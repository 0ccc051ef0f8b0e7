"""DICOM files (PS3.10): encode the header of a received data set, and find the data set in a stored file.

The data set itself is stored as received, never decoded and encoded again.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache

from pydicom.config import IGNORE, settings

# The adapter's own UID, derived from a UUID (PS3.5 B.2)
IMPLEMENTATION_CLASS_UID = "2.25.308205291862746372187430846471190541725"
IMPLEMENTATION_VERSION_NAME = "DICOM-ADAPTER-01"  # at most 16 characters (VR SH)

PREAMBLE = 128  # bytes at the beginning of a file, for any use by a program (PS3.10 section 7.1)
EMPTY_PREAMBLE = bytes(PREAMBLE)
# Preamble of stored outputs. Uploads and exports have the empty preamble instead, as the pipeline has written it. The
# rest of the header is no evidence of an output: many pipelines copy it from their input.
OUTPUT_PREAMBLE = b"dicom-adapter: output of a job, not a received instance".ljust(PREAMBLE, b"\x00")
BEFORE_META = PREAMBLE + 4 + 12  # bytes: preamble, prefix, and the group length element (PS3.10 section 7.1)

AE_TITLE_LENGTH = 16  # maximum number of characters
NOT_IN_AE_TITLE = re.compile(r"\\x[0-9a-f]{2}|[^\x20-\x5b\x5d-\x7e]")  # an escaped byte, or another character

TRANSFER_SYNTAX_UID = 0x00020010
SOURCE_AE_TITLE = 0x00020016
RECEIVING_AE_TITLE = 0x00020018


def keep_values_out_of_warnings() -> None:
    """Disable pydicom's validation of values in this process: its warnings quote patient data."""
    settings.reading_validation_mode = IGNORE


def file_header(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    source_ae_title: str,
    receiving_ae_title: str | None = None,
) -> bytes:
    """Encode preamble, prefix and File Meta Information (PS3.10 section 7.1) in explicit VR little endian.

    Without `receiving_ae_title`, its element is omitted, as in the files of the first versions of the adapter.
    """
    meta = b"".join(
        (
            struct.pack("<HH2sHI2s", 0x0002, 0x0001, b"OB", 0, 2, b"\x00\x01"),
            _short(0x0002, b"UI", sop_class_uid),
            _short(0x0003, b"UI", sop_instance_uid),
            _context_elements(transfer_syntax_uid, source_ae_title, receiving_ae_title),
        )
    )
    length = struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(meta))
    return EMPTY_PREAMBLE + b"DICM" + length + meta


@lru_cache(maxsize=1024)
def _context_elements(transfer_syntax_uid: str, source_ae_title: str, receiving_ae_title: str | None) -> bytes:
    """Encode the elements that are the same for all instances of an association with one transfer syntax."""
    return b"".join(
        (
            _short(0x0010, b"UI", transfer_syntax_uid),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _short(0x0016, b"AE", _valid_ae_title(source_ae_title)),
            b"" if receiving_ae_title is None else _short(0x0018, b"AE", _valid_ae_title(receiving_ae_title)),
        )
    )


def _valid_ae_title(text: str) -> str:
    """Return an AE title as one value of VR AE (PS3.5 section 6.2), with "?" for each byte that is not allowed.

    An AE title from the network may contain any byte, escaped as in \\xff.
    """
    return NOT_IN_AE_TITLE.sub("?", text)[:AE_TITLE_LENGTH]


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += b"\x00" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def data_set_offset(beginning: bytes) -> int:
    """Return the offset of the data set in a Part 10 file. Raises ValueError for a file of another format.

    `beginning` contains at least the first BEFORE_META bytes of the file.
    """
    if len(beginning) < BEFORE_META or beginning[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise ValueError("not a DICOM file: it does not begin with File Meta Information (PS3.10 section 7.1)")
    (length,) = struct.unpack_from("<I", beginning, BEFORE_META - 4)
    return BEFORE_META + int(length)


def mark_output(beginning: bytes) -> bytes:
    """Return the beginning of an output of a job with the preamble OUTPUT_PREAMBLE, by which repairs recognize it.

    `beginning` has at least the preamble, if the file is long enough. Files that are not Part 10 files are not changed,
    and neither are files with a preamble: no received instance has one.
    """
    try:
        data_set_offset(beginning)
    except ValueError:
        return beginning
    return OUTPUT_PREAMBLE + beginning[PREAMBLE:] if has_empty_preamble(beginning) else beginning


def has_empty_preamble(beginning: bytes) -> bool:
    """Return whether a file begins with the preamble of received instances."""
    return beginning[:PREAMBLE] == EMPTY_PREAMBLE
