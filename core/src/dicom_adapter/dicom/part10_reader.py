"""Read a Part 10 file (PS3.10) of unknown origin while it arrives in pieces: its identity, and whether it is complete.

The data set is kept as it is. Some programs write a header without its group length, which PS3.10 section 7.1 requires
and readers of stored objects rely on: such a header gets its group length.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

from attrs import field, frozen

from dicom_adapter.dicom.checksum import crc32
from dicom_adapter.dicom.encoding import EXPLICIT, has_long_length, has_short_length
from dicom_adapter.dicom.identity import UID_GRAMMAR, Identity, IdentityReader, Mismatch, UnreadableDataSet
from dicom_adapter.dicom.part10 import (
    RECEIVING_AE_TITLE,
    SOURCE_AE_TITLE,
    TRANSFER_SYNTAX_UID,
    data_set_offset,
)

PREFIX = 132  # bytes: the preamble, and the four characters "DICM"
META_LIMIT = 1 << 16  # bytes: a longer File Meta Information is refused; it has about 200 bytes, and is kept in memory
GROUP_LENGTH = 0x00020000
MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003


@frozen(kw_only=True)
class FileOfUnknownOrigin:
    """The result of reading a file to its end."""

    is_part10: bool  # it begins as a Part 10 file does
    size_bytes: int  # of the stored file
    checksum: int  # CRC-32 as in the ledger: of the data set, or of the whole file if it is not a Part 10 file
    # Why the file cannot be used, without values of the data set; "" for a usable file, and if it is not a Part 10 file
    problem: str = ""
    # The identity; "" for everything that the file does not have, or that cannot be read.
    identity: Identity = field(repr=False)
    transfer_syntax_uid: str = ""
    header_sop_class_uid: str = ""  # from the File Meta Information; "" if it is missing there
    header_sop_instance_uid: str = ""  # from the File Meta Information; "" if it is missing there
    source_ae_title: str = ""  # of a received instance: the calling AE title; "" if it is missing in the header
    # Of a received instance: the called AE title; "" if it is missing, as in files of the adapter's first versions
    receiving_ae_title: str = ""


def checksum_start(beginning: bytes) -> int:
    """Return the offset from which the checksum of a stored object is computed.

    It is the offset of the data set, or 0 if the object does not begin as the adapter's Part 10 files do. `beginning`
    has the first BEFORE_META bytes, or fewer if the object is shorter.
    """
    try:
        return data_set_offset(beginning)
    except ValueError:
        return 0


class Part10Reader:
    """Reads one file. `feed` and `end` return the bytes to store. Not thread-safe."""

    def __init__(self, unsupported_transfer_syntaxes: Collection[str] = ()) -> None:
        """Data sets in one of `unsupported_transfer_syntaxes` are not parsed: the result then has a `problem`."""
        self._unsupported = unsupported_transfer_syntaxes
        self._beginning: bytes | None = b""  # the first bytes, until it is known what the file is
        self._is_part10 = False
        self._problem = ""
        self._elements: dict[int, bytes] = {}  # of the File Meta Information, encoded, by tag
        self._identity: IdentityReader | None = None
        self._skip = 0  # bytes at the beginning that the checksum does not cover
        self._size = 0
        self._checksum = 0

    def feed(self, piece: bytes | memoryview) -> Sequence[bytes | memoryview]:
        """Receive the next piece, and return what is to be stored now. The piece's memory may be reused afterwards."""
        if self._beginning is None:
            return self._keep([piece])
        self._beginning += piece
        return self._decide(is_end=False)

    def end(self) -> Sequence[bytes | memoryview]:
        """Note the end of the file, and return what is to be stored last."""
        return () if self._beginning is None else self._decide(is_end=True)

    def result(self) -> FileOfUnknownOrigin:
        """Return what was read. Call it after `end`."""
        identity, problem = NO_IDENTITY, self._problem
        if self._identity is not None:
            identity, problem = _identity(self._identity)
        return FileOfUnknownOrigin(
            is_part10=self._is_part10,
            size_bytes=self._size,
            checksum=self._checksum,
            problem=problem,
            identity=identity,
            transfer_syntax_uid=self._text(TRANSFER_SYNTAX_UID),
            header_sop_class_uid=self._text(MEDIA_STORAGE_SOP_CLASS_UID),
            header_sop_instance_uid=self._text(MEDIA_STORAGE_SOP_INSTANCE_UID),
            source_ae_title=self._text(SOURCE_AE_TITLE).strip(" "),
            receiving_ae_title=self._text(RECEIVING_AE_TITLE).strip(" "),
        )

    def _decide(self, *, is_end: bool) -> Sequence[bytes | memoryview]:
        """Return the bytes to store if the beginning shows what the file is; otherwise wait for more."""
        beginning = self._beginning
        assert beginning is not None  # because nothing was decided
        if len(beginning) < PREFIX and not is_end:
            return ()
        self._is_part10 = beginning[PREFIX - 4 : PREFIX] == b"DICM"
        if not self._is_part10:
            return self._begin(beginning)
        end = self._read_header(beginning)
        if end is None and not self._problem:
            if len(beginning) < META_LIMIT and not is_end:
                return ()
            self._problem = (
                "it ends in the middle of its header"
                if is_end
                else f"its File Meta Information has more than {META_LIMIT} bytes"
            )
        if end is None or self._problem or not self._begin_data_set():
            self._skip = checksum_start(beginning)
            return self._begin(beginning)
        header = beginning[:PREFIX] + _encode_meta(self._elements)
        self._skip = len(header)
        return self._begin(header, beginning[end:])

    def _begin(self, *pieces: bytes) -> Sequence[bytes | memoryview]:
        self._beginning = None
        return self._keep(pieces)

    def _keep(self, pieces: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
        for piece in pieces:
            covered = piece[max(0, self._skip - self._size) :]
            self._checksum = crc32(covered, self._checksum)
            self._size += len(piece)
            if self._identity is not None and len(covered):
                self._identity.feed(covered)
        return pieces

    def _read_header(self, data: bytes) -> int | None:
        """Read the File Meta Information; return the offset of the data set, or None if it is incomplete or invalid."""
        self._elements.clear()
        at = PREFIX
        while at + 8 <= len(data):
            group, number, vr, length = EXPLICIT.header(data, at)
            if group != 2:
                if not self._elements:
                    self._problem = "it has no File Meta Information"
                    return None
                return at
            value = at + 8
            if has_long_length(vr, length):
                if at + 12 > len(data):
                    return None
                (length,) = EXPLICIT.long(data, at + 8)
                value = at + 12
            elif not has_short_length(vr):
                self._problem = f"its header has no valid data element at offset {at}"
                return None
            if value + length > len(data):
                return None
            self._elements[group << 16 | number] = data[at : value + length]
            at = value + length
        return None

    def _begin_data_set(self) -> bool:
        """Prepare to read the data set; return False, and set the problem, if its transfer syntax is not usable."""
        uid = self._text(TRANSFER_SYNTAX_UID)
        if not uid:
            self._problem = "its header has no Transfer Syntax UID"
        elif not UID_GRAMMAR.fullmatch(uid):
            self._problem = "the Transfer Syntax UID in its header is not a UID"
        elif uid in self._unsupported:
            self._problem = f"its transfer syntax {uid} is not supported"
        else:
            self._identity = IdentityReader(uid, must_be_complete=True)
        return not self._problem

    def _text(self, tag: int) -> str:
        element = self._elements.get(tag, b"")
        return element[8:].rstrip(b"\x00 ").decode("ascii", "replace")


# Identity of a file of which no data set was read
NO_IDENTITY = Identity(
    sop_class_uid="",
    sop_instance_uid="",
    study_instance_uid="",
    series_instance_uid="",
    patient_id="",
    issuer_of_patient_id="",
)


def _identity(reader: IdentityReader) -> tuple[Identity, str]:
    """Return the identity, and why the data set cannot be used; "" if it can."""
    try:
        return reader.identity(), ""
    except (UnreadableDataSet, Mismatch) as refusal:
        return reader.known(), str(refusal)


def _encode_meta(elements: dict[int, bytes]) -> bytes:
    """Encode File Meta Information with its group length, which must be the first element."""
    rest = b"".join(element for tag, element in elements.items() if tag != GROUP_LENGTH)
    return struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(rest)) + rest
