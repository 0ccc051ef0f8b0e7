"""The header of stored files, and the identity attributes of data sets from untrusted senders."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicom_adapter.dicom.identity import Identity, Mismatch, UnreadableDataSet, identify
from dicom_adapter.dicom.part10 import BEFORE_META, data_set_offset, file_header

CT = "1.2.840.10008.5.1.4.1.1.2"
LONG_VRS = (b"OB", b"SQ", b"UN", b"UT")
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
PLAIN = {
    0x00080005: (b"CS", b"ISO_IR 192"),
    0x00080016: (b"UI", CT.encode()),
    0x00080018: (b"UI", b"1.2.3.4"),
    0x00081030: (b"LO", b"Somebody's study"),
    0x00100010: (b"PN", b"Nobody^" + b"N" * 410),  # long, so that a file that is cut at byte 600 ends among the UIDs
    0x00100020: (b"LO", b"PID-4711"),
    0x00100021: (b"LO", b"HOSPITAL"),
    0x0020000D: (b"UI", b"1.2.3"),
    0x0020000E: (b"UI", b"1.2.3.55.66"),
    0x00200010: (b"SH", b"S1"),
    0x7FE00010: (b"OB", b"pixels"),
}
IDENTITY = Identity(
    sop_class_uid=CT,
    sop_instance_uid="1.2.3.4",
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.55.66",
    patient_id="PID-4711",
    issuer_of_patient_id="HOSPITAL",
)


def element(
    tag: int, vr: bytes, value: bytes, syntax: UID = ExplicitVRLittleEndian, length: int | None = None
) -> bytes:
    """Encode one data element (PS3.5 section 7.1), padded to even length."""
    end = "<" if syntax.is_little_endian else ">"
    value += (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    numbers = (tag >> 16, tag & 0xFFFF, len(value) if length is None else length)
    if syntax == ImplicitVRLittleEndian:
        return struct.pack("<HHL", *numbers) + value
    if vr in LONG_VRS:
        return struct.pack(f"{end}HH2sxxL", *numbers[:2], vr, numbers[2]) + value
    return struct.pack(f"{end}HH2sH", *numbers[:2], vr, numbers[2]) + value


def encode(syntax: UID = ExplicitVRLittleEndian, **changes: bytes) -> bytes:
    """Encode the plain data set. `changes` are values by tag, for example `x00100020=b"…"`."""
    values = PLAIN | {int(tag[1:], 16): (PLAIN[int(tag[1:], 16)][0], value) for tag, value in changes.items()}
    return b"".join(element(tag, vr, value, syntax) for tag, (vr, value) in values.items())


def patient_id_of(raw: bytes, character_set: bytes) -> str:
    return identify(encode(x00080005=character_set, x00100020=raw), ExplicitVRLittleEndian).patient_id


# --- the header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sop_instance_uid", ["1.2.3", "1.2.34", "2.25." + "9" * 59])
@pytest.mark.parametrize("caller", ["CT1", "CT12", "A" * 16, ""])
@pytest.mark.parametrize("receiver", ["LUNG", "LIVER", None])
def test_pydicom_reads_files_that_begin_with_the_header(
    sop_instance_uid: str, caller: str, receiver: str | None
) -> None:
    """Values are padded to even length and the group length is correct, so the data set follows unchanged."""
    header = file_header(CT, sop_instance_uid, ExplicitVRLittleEndian, caller, receiver)
    read = dcmread(BytesIO(header + encode()))

    assert (CT, sop_instance_uid) == (read.file_meta.MediaStorageSOPClassUID, read.file_meta.MediaStorageSOPInstanceUID)
    assert caller == (read.file_meta.SourceApplicationEntityTitle or "")
    assert receiver == read.file_meta.get("ReceivingApplicationEntityTitle")
    assert len(header) == 128 + 4 + 12 + read.file_meta.FileMetaInformationGroupLength
    assert len(header) == data_set_offset(header[:BEFORE_META])
    assert 0 == len(header) % 2
    assert "PID-4711" == read.PatientID
    assert b"pixels" == read.PixelData


def test_a_calling_ae_title_that_is_not_ascii_gets_a_valid_header() -> None:
    """AE titles are ASCII (PS3.5 section 6.2), but some peers send other bytes. The instance is stored nevertheless."""
    header = file_header(CT, "1.2.3", ExplicitVRLittleEndian, "RÖNTGEN")

    assert "R?NTGEN" == dcmread(BytesIO(header + encode())).file_meta.SourceApplicationEntityTitle


@pytest.mark.parametrize("beginning", [b"", file_header(CT, "1.2.3", "1.2", "A")[:143], b"\0" * 132 + b"\2\0" * 9])
def test_a_file_that_is_not_dicom_has_no_data_set(beginning: bytes) -> None:
    """The file is truncated, or has another format."""
    with pytest.raises(ValueError, match="not a DICOM file"):
        data_set_offset(beginning)


# --- the identity of an instance --------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [*SYNTAXES, JPEGBaseline8Bit, UID("1.3.46.670589.33.1.4.1")], ids=lambda u: u.name)
def test_an_instance_is_identified_in_every_transfer_syntax(syntax: UID) -> None:
    """The syntaxes are implicit and explicit VR, big endian, compressed, and private (PS3.5 annex A)."""
    changes = {"x7FE00010": b""} if syntax == JPEGBaseline8Bit else {}  # native pixel data are refused
    data_set = encode(syntax if syntax in SYNTAXES else ExplicitVRLittleEndian, **changes)

    assert identify(data_set, syntax) == IDENTITY


@pytest.mark.parametrize("length", ["defined", "undefined"])
def test_attributes_in_sequences_are_ignored(length: str) -> None:
    """The UIDs of a referenced image and the ID of another patient in a sequence are not those of the instance."""
    inner = element(0x00080018, b"UI", b"9.9") + element(0x00100020, b"LO", b"OTHER")
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
    sequence = element(0x00081140, b"SQ", item)
    if length == "undefined":
        end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        sequence = element(0x00081140, b"SQ", item + end, length=0xFFFFFFFF)
    data_set = encode()
    place = data_set.index(element(0x00100010, *PLAIN[0x00100010]))

    assert identify(data_set[:place] + sequence + data_set[place:], ExplicitVRLittleEndian) == IDENTITY


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda u: u.name)
def test_a_truncated_data_set_is_refused_or_read_completely(syntax: UID) -> None:
    """Verified to fail when lengths are not checked: the beginning of a UID is accepted as the whole UID."""
    data_set = encode(syntax)
    assert len(data_set) > 600
    refused = 0
    for end in range(min(600, len(data_set))):
        try:
            assert identify(data_set[:end], syntax) == IDENTITY
        except (UnreadableDataSet, Mismatch):
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda u: u.name)
def test_random_bytes_are_refused(syntax: UID) -> None:
    """No other exception is raised, and the message does not quote the bytes."""
    deep = element(0x00081140, b"SQ", struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF), length=0xFFFFFFFF)
    for garbage in (
        b"",
        b"PID-4711",
        b"\0" * 999,
        b"\xff" * 999,
        bytes(range(256)) * 4,
        b"DICM" + encode(),
        deep * 9999,
    ):
        with pytest.raises((UnreadableDataSet, Mismatch)) as refusal:
            identify(garbage, syntax)
        assert "4711" not in str(refusal.value)


def test_an_unknown_transfer_syntax_is_read_as_explicit_vr_little_endian() -> None:
    """All transfer syntaxes except implicit VR and big endian encode their elements in this way (PS3.5 annex A)."""
    assert identify(encode(), "1.2.840.10008.1.2.999") == IDENTITY


# --- UIDs and texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["x00080016", "x00080018", "x0020000D", "x0020000E"])
@pytest.mark.parametrize(
    "value",
    [b"", b" ", b"../../etc/passwd", b"1.2\0.3", b"1" * 65, b"9" * 10_000, b"1.2\\1.3", b"1.2.\xe9", b"1.2\n"],
    ids=lambda value: repr(value[:10]),
)
def test_a_uid_that_is_missing_or_malformed_is_refused(tag: str, value: bytes) -> None:
    """A UID has 1 to 64 digits and periods (PS3.5 section 9). The message does not quote the value."""
    with pytest.raises(Mismatch) as refusal:
        identify(encode(**{tag: value}), ExplicitVRLittleEndian)
    assert value.strip() == b"" or value.decode("latin-1") not in str(refusal.value)


@pytest.mark.parametrize(
    ("raw", "character_set", "text"),
    [
        (b"PID-4711", b"", "PID-4711"),
        (b"  PID 4711 ", b"ISO_IR 100", "PID 4711"),
        (b"PID-471\0", b"", "PID-471"),
        (b"PID-4711\0", b"", "PID-4711"),
        (b"M\xfcller", b"ISO_IR 100", "Müller"),
        ("Müller 山田".encode(), b"ISO_IR 192", "Müller 山田"),
        (b"\xd3\xd4", b"ISO_IR 144", "гд"),
        (b"\x1b$B;3ED\x1b(B\xe9", b"\\ISO 2022 IR 87", "山田é"),
        ("王".encode("gb18030"), b"GB18030", "王"),
        (b"../../etc/passwd", b"", "../../etc/passwd"),
        (b"a\0b", b"", "a\0b"),
        (b"X" * 10_000, b"", "X" * 10_000),
    ],
)
def test_a_patient_id_is_read_in_its_character_set(raw: bytes, character_set: bytes, text: str) -> None:
    """The text is decoded (PS3.3 C.12.1.1.2) and its padding removed; it is never interpreted."""
    assert text == patient_id_of(raw, character_set)


@pytest.mark.parametrize("character_set", [b"ISO_IR 192", b"", b"GB18030", b"ISO 2022 IR 149", b"utf-7"])
def test_a_wrong_character_set_never_makes_two_patients_equal(character_set: bytes) -> None:
    """Latin-1 bytes with a wrong character set are common.

    Verified to fail when replacement characters are used for undecodable bytes.
    """
    assert patient_id_of(b"M\xdcLLER", character_set) != patient_id_of(b"M\xd6LLER", character_set)


@pytest.mark.parametrize("character_set", [b"undefined", b"zlib", b"idna", b"punycode", b"unicode_escape", b"utf-16"])
@pytest.mark.parametrize("raw", [b"M\xdcLLER", b"\\ud800\xe9", b"\x1b$B\xe9\xff", b"\x1b(Q\xe9"])
def test_a_character_set_named_like_a_python_codec_is_harmless(raw: bytes, character_set: bytes) -> None:
    """The result can be written to the database. Verified to fail when the name is passed to Python's codecs."""
    text = patient_id_of(raw, character_set)

    assert text == text.encode("utf-8").decode("utf-8")


@pytest.mark.filterwarnings("ignore:Unknown encoding")
def test_an_unknown_character_set_does_not_refuse_an_instance() -> None:
    """pydicom warns about the character set. The instance is kept, and different bytes give different texts."""
    assert "MÜLLER" == patient_id_of(b"M\xdcLLER", b"KLINGON")
