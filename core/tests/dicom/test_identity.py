"""The identity attributes that are parsed while a data set arrives, in pieces of any size."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicom_adapter.dicom.identity import (
    Identity,
    IdentityReader,
    Mismatch,
    NotAsNegotiated,
    UnreadableDataSet,
    identify,
)
from dicom_adapter.dicom.part10 import data_set_offset

SHIPPED = Path(str(get_testdata_file("CT_small.dcm"))).parent
CT = "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_VRS = ("OB", "OW", "SQ", "UN", "UT")
IDENTITY = Identity(
    sop_class_uid=CT,
    sop_instance_uid="1.2.3.4",
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.55.66",
    patient_id="PID-4711",
    issuer_of_patient_id="HOSPITAL",
)


def element(tag: int, vr: str, value: bytes, syntax: str, length: int | None = None) -> bytes:
    """Encode one data element (PS3.5 section 7.1), padded to even length."""
    value += (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2)
    size = len(value) if length is None else length
    end = ">" if syntax == ExplicitVRBigEndian else "<"
    start = struct.pack(end + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == ImplicitVRLittleEndian or not vr:  # items and delimiters have no VR
        return start + struct.pack(end + "L", size) + value
    if vr in LONG_VRS:
        return start + vr.encode() + b"\0\0" + struct.pack(end + "L", size) + value
    return start + vr.encode() + struct.pack(end + "H", size) + value


def encode(syntax: str, before_patient: bytes = b"", after: bytes = b"") -> bytes:
    """Encode a data set. `before_patient` is placed between SOP Instance UID and Patient ID."""
    return b"".join(
        (
            element(0x00080016, "UI", CT.encode(), syntax),
            element(0x00080018, "UI", b"1.2.3.4", syntax),
            before_patient,
            element(0x00100020, "LO", b"PID-4711", syntax),
            element(0x00100021, "LO", b"HOSPITAL", syntax),
            element(0x0020000D, "UI", b"1.2.3", syntax),
            element(0x0020000E, "UI", b"1.2.3.55.66", syntax),
            after or element(0x7FE00010, "OB", b"pixels" * 9, syntax),
        )
    )


def read(data_set: bytes, syntax: str, size: int) -> Identity:
    """Feed the data set to the parser in pieces until the parser needs no more data."""
    reader = IdentityReader(syntax)
    for start in range(0, len(data_set), size):
        if not reader.needs_more:
            break
        reader.feed(memoryview(data_set)[start : start + size])
    return reader.identity()


def outcome(call: object, *arguments: object) -> Identity | type[Exception]:
    """Return the result or the class of the refusal. Any other exception is raised."""
    try:
        return call(*arguments)  # type: ignore[operator,no-any-return] # `read` or `identify`
    except (UnreadableDataSet, Mismatch) as refusal:
        return type(refusal)


# --- files of pydicom -------------------------------------------------------------------------------------------------


def shipped() -> list[Path]:
    """Return all Part 10 files of pydicom whose data set is not deflated."""
    return [path for path in sorted(SHIPPED.rglob("*.dcm")) if transfer_syntax(path)]


def transfer_syntax(path: Path) -> str:
    content = path.read_bytes()
    try:
        offset = data_set_offset(content)
    except ValueError:
        return ""
    place = content.find(b"\x02\x00\x10\x00UI", 0, offset)
    (length,) = struct.unpack_from("<H", content, place + 6)
    uid = content[place + 8 : place + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")
    return "" if place < 0 or uid == DeflatedExplicitVRLittleEndian else uid


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_files_of_pydicom_have_the_same_identity_in_pieces_and_as_a_whole(path: Path) -> None:
    """Invalid files are refused in both cases. The UIDs are those that pydicom reads."""
    content, syntax = path.read_bytes(), transfer_syntax(path)
    data_set = content[data_set_offset(content) :]
    expected = outcome(identify, data_set, syntax)
    # Large files are read only in large pieces: reading them byte by byte takes minutes.
    sizes = (1, 7, 4096) if len(data_set) < 1 << 17 else (4096,)

    assert [expected] * len(sizes) == [outcome(read, data_set, syntax, size) for size in sizes]
    if isinstance(expected, Identity):
        header = dcmread(path, stop_before_pixels=True)
        uids = (header.SOPClassUID, header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID)
        assert uids == (
            expected.sop_class_uid,
            expected.sop_instance_uid,
            expected.study_instance_uid,
            expected.series_instance_uid,
        )


def test_pydicom_has_enough_files_for_the_comparison() -> None:
    """Most of the files have an identity."""
    known = [
        path
        for path in shipped()
        if isinstance(
            outcome(identify, path.read_bytes()[data_set_offset(path.read_bytes()) :], transfer_syntax(path)), Identity
        )
    ]
    assert len(known) > 30


# --- how far the reader reads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
def test_the_reader_stops_when_it_has_every_attribute_and_has_seen_the_pixel_data(syntax: str, size: int) -> None:
    """The pixel data are not scanned."""
    reader = IdentityReader(syntax)
    pixels = element(0x7FE00010, "OB", bytes(100_000), syntax)
    data_set = element(0x00080005, "CS", b"ISO_IR 100", syntax) + encode(syntax, after=pixels)
    fed = 0
    while reader.needs_more:
        reader.feed(data_set[fed : fed + size])
        fed += size
    assert IDENTITY == reader.identity()
    assert fed < max(len(data_set) - 100_000, 1024) + size  # 1024 bytes are collected to check the encoding


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_a_data_set_that_ends_with_the_last_attribute_is_read(syntax: str) -> None:
    """The reader does not need a following element to find its end."""
    data_set = encode(syntax, after=b"\0")[:-1]
    assert [IDENTITY] * 3 == [read(data_set, syntax, size) for size in (1, 7, 4096)]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_attributes_behind_any_number_of_others_are_found(syntax: str) -> None:
    """Other values are skipped, not kept in memory, and may have any length."""
    large = [element(0x00091000 + number, "OB", bytes(5 << 20), syntax) for number in range(3)]
    assert IDENTITY == read(encode(syntax, b"".join(large)), syntax, 1 << 16)


def test_a_wanted_value_that_is_too_long_is_refused_with_its_place() -> None:
    """The limit applies only to the values that the reader needs."""
    data_set = encode(ExplicitVRLittleEndian).replace(
        element(0x00100020, "LO", b"PID-4711", ExplicitVRLittleEndian),
        element(0x00100020, "UT", b"P" * 70_000, ExplicitVRLittleEndian),
    )
    with pytest.raises(UnreadableDataSet, match=r"\(0010,0020\) at offset 50 has 70000 bytes, more than 65536"):
        read(data_set, ExplicitVRLittleEndian, 4096)


# --- the order of elements --------------------------------------------------------------------------------------------


@given(st.sampled_from(SYNTAXES), st.permutations(range(9)), st.integers(1, 400))
def test_attributes_are_found_in_any_order(syntax: str, order: list[int], size: int) -> None:
    """PS3.5 section 7.1 requires ascending tags. If a sender does not sort them, the identity is still correct."""
    elements = [
        element(0x00080016, "UI", CT.encode(), syntax),
        element(0x00080018, "UI", b"1.2.3.4", syntax),
        sequence(syntax, element(0x00100020, "LO", b"OTHER", syntax), sequence_delimiter=True, item_delimiter=True),
        element(0x00100020, "LO", b"PID-4711", syntax),
        element(0x00100021, "LO", b"HOSPITAL", syntax),
        element(0x0020000D, "UI", b"1.2.3", syntax),
        element(0x0020000E, "UI", b"1.2.3.55.66", syntax),
        element(0x00280010, "US", b"\1\0", syntax),
        element(0x7FE00010, "OB", b"pixels" * 200, syntax),
    ]
    assert IDENTITY == read(b"".join(elements[place] for place in order), syntax, size)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_an_attribute_with_two_values_is_refused(syntax: str) -> None:
    """The reader does not choose one of two patients. Two equal values are accepted."""
    second = element(0x00100020, "LO", b"PID-4712", syntax)
    with pytest.raises(UnreadableDataSet, match=r"a second \(0010,0020\) at offset \d+, with another value"):
        identify(encode(syntax) + second, syntax)
    assert IDENTITY == identify(encode(syntax) + element(0x00100020, "LO", b"PID-4711", syntax), syntax)


def test_damaged_elements_after_the_identity_are_accepted_if_the_order_is_correct() -> None:
    """The instance is stored unchanged.

    If its elements are out of order, the instance is refused, because the damage may hide an attribute.
    """
    syntax = ExplicitVRLittleEndian
    damage = b"\xff\xff\xff\xffgarbage" * 9
    assert IDENTITY == identify(encode(syntax, after=element(0x00280010, "US", b"\1\0", syntax) + damage), syntax)
    unsorted = element(0x00280010, "US", b"\1\0", syntax) + encode(syntax, after=damage)
    with pytest.raises(
        UnreadableDataSet, match=r"no valid data element at offset \d+, after \(0020,000E\).*out of order"
    ):
        identify(unsorted, syntax)


def test_a_wrong_length_is_reported_with_its_place() -> None:
    """The reason names the element with the wrong length, not the attribute that is missing after it."""
    syntax = ExplicitVRLittleEndian
    wrong = element(0x00081030, "LO", b"a study", syntax, length=31)
    with pytest.raises(UnreadableDataSet, match=r"no valid data element at offset \d+, after \(0008,1030\) at offset"):
        identify(encode(syntax, wrong + element(0x00081032, "LO", b"another study", syntax)), syntax)


# --- another encoding than that of the transfer syntax ----------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 4096])
@pytest.mark.parametrize("actual", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("negotiated", [*SYNTAXES, JPEGBaseline8Bit], ids=lambda syntax: syntax.name)
def test_a_data_set_that_is_not_encoded_as_negotiated_is_refused(negotiated: UID, actual: UID, size: int) -> None:
    """The platform could not read the data set. The reason names both encodings."""
    after = element(0x00280010, "US", b"\1\0", actual)
    if actual == negotiated or (negotiated, actual) == (JPEGBaseline8Bit, ExplicitVRLittleEndian):
        assert IDENTITY == read(encode(actual, after=after), negotiated, size)
        return
    with pytest.raises(
        NotAsNegotiated, match=r"the data set is encoded in (im|ex)plicit VR (big|little) endian; its transfer"
    ):
        read(encode(actual, after=after), negotiated, size)


@pytest.mark.parametrize("negotiated", [ExplicitVRLittleEndian, JPEGBaseline8Bit], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("encapsulated", [True, False], ids=["encapsulated", "native"])
def test_pixel_data_must_be_encapsulated_exactly_if_the_transfer_syntax_requires_it(
    negotiated: UID, encapsulated: bool
) -> None:
    """The rule is in PS3.5 section A.4."""
    own = ExplicitVRLittleEndian
    fragments = (
        element(ITEM, "", b"", own) + element(ITEM, "", b"\xff\xd8jpeg", own) + element(SEQUENCE_END, "", b"", own)
    )
    pixels = element(
        0x7FE00010, "OB", fragments if encapsulated else b"pixels", own, UNDEFINED if encapsulated else None
    )
    # With the character set, the reader has all attributes when the pixel data begin.
    charset = element(0x00080005, "CS", b"ISO_IR 100", own)
    if encapsulated is (negotiated == JPEGBaseline8Bit):
        assert IDENTITY == identify(charset + encode(own, after=pixels), negotiated)
        return
    with pytest.raises(NotAsNegotiated, match=r"its Pixel Data is (native|encapsulated); its transfer syntax"):
        identify(charset + encode(own, after=pixels), negotiated)


def test_a_dicom_file_instead_of_a_data_set_is_refused() -> None:
    """Some senders send the whole file (PS3.10)."""
    file = bytes(128) + b"DICM" + encode(ExplicitVRLittleEndian)
    with pytest.raises(UnreadableDataSet, match="begins with the header of a DICOM file"):
        identify(file, ExplicitVRLittleEndian)


# --- elements between the attributes ----------------------------------------------------------------------------------


def sequence(syntax: str, content: bytes, *, sequence_delimiter: bool, item_delimiter: bool) -> bytes:
    """Encode a sequence with one item. Without a delimiter, the length is defined (PS3.5 section 7.5)."""
    end = element(ITEM_END, "", b"", syntax) if item_delimiter else b""
    item = element(ITEM, "", content + end, syntax, UNDEFINED if item_delimiter else None)
    if sequence_delimiter:
        return element(0x00081140, "SQ", item + element(SEQUENCE_END, "", b"", syntax), syntax, UNDEFINED)
    return element(0x00081140, "SQ", item, syntax)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("outer", [True, False], ids=["outer delimiter", "outer length"])
@pytest.mark.parametrize("inner", [True, False], ids=["inner delimiter", "inner length"])
@pytest.mark.parametrize("items", [True, False], ids=["item delimiters", "item lengths"])
def test_attributes_in_nested_sequences_are_ignored(syntax: str, outer: bool, inner: bool, items: bool) -> None:
    """The UIDs of a referenced image and the ID of another patient are not those of the instance."""
    others = element(0x00080018, "UI", b"9.9", syntax) + element(0x00100020, "LO", b"OTHER", syntax)
    late = others + element(0x0020000E, "UI", b"9.9.9", syntax) + element(0x00400001, "LO", b"LATE", syntax)
    nested = sequence(syntax, late, sequence_delimiter=inner, item_delimiter=items)
    whole = encode(syntax, sequence(syntax, others + nested, sequence_delimiter=outer, item_delimiter=items))

    assert IDENTITY == identify(whole, syntax)
    assert [IDENTITY] * 3 == [read(whole, syntax, size) for size in (1, 7, 4096)]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("length", [None, UNDEFINED], ids=["with a length", "with a delimiter"])
def test_an_element_with_vr_un_is_skipped(syntax: str, length: int | None) -> None:
    """An element with VR UN contains a value, or items in implicit VR little endian (PS3.5 section 6.2.2)."""
    own = ImplicitVRLittleEndian
    items = element(ITEM, "", element(0x00100020, "LO", b"OTHER", own), own) + element(SEQUENCE_END, "", b"", own)
    unknown = element(0x00091001, "UN", items if length else b"whatever", syntax, length)
    whole = encode(syntax, unknown)

    assert [identify(whole, syntax)] * 3 == [read(whole, syntax, size) for size in (1, 7, 4096)]
    assert IDENTITY == read(whole, syntax, 7)


# --- anything at all --------------------------------------------------------------------------------------------------


@given(st.sampled_from(SYNTAXES), st.binary(max_size=300), st.integers(1, 50))
def test_random_bytes_are_refused(syntax: str, garbage: bytes, size: int) -> None:
    """No exception other than a refusal is raised."""
    result = outcome(read, garbage, syntax, size)
    assert result in (UnreadableDataSet, Mismatch)


@given(
    st.sampled_from(SYNTAXES),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=6)), max_size=3),
    st.integers(0, 10_000),
    st.integers(1, 50),
)
def test_damaged_data_sets_have_the_same_identity_in_pieces_and_as_a_whole(
    syntax: str, changes: list[tuple[int, bytes]], cut: int, size: int
) -> None:
    """If both readings find an identity, the identities are equal. No exception other than a refusal is raised."""
    inner = sequence(syntax, element(0x00100020, "LO", b"OTHER", syntax), sequence_delimiter=True, item_delimiter=True)
    data_set = bytearray(encode(syntax, inner))
    for place, value in changes:
        place %= len(data_set)
        data_set[place : place + len(value)] = value
    damaged = bytes(data_set[: max(cut % (2 * len(data_set)), 1)])
    result, expected = outcome(read, damaged, syntax, size), outcome(identify, damaged, syntax)
    if isinstance(result, Identity) and isinstance(expected, Identity):
        assert expected == result


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("vr", [b"??", b"  ", b"\0\0", b"ZZ"])
@pytest.mark.parametrize("size", [1, 4096])
def test_an_invalid_vr_with_a_length_of_16_bits_is_skipped(syntax: str, vr: bytes, size: int) -> None:
    """Some programs write such a header for an element whose VR they do not know."""
    odd = element(0x00091001, "LO", b"whatever", syntax).replace(b"LO", vr)
    assert IDENTITY == read(encode(syntax, odd), syntax, size)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda syntax: syntax.name)
def test_a_vr_of_the_future_has_a_long_length(syntax: str) -> None:
    """PS3.5 section 7.1.2: every new VR has a reserved field and a length of 32 bits."""
    odd = element(0x00091001, "UT", b"w" * 70_000, syntax).replace(b"UT", b"ZZ")
    assert IDENTITY == read(encode(syntax, odd), syntax, 4096)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_a_delimiter_with_a_length_is_accepted(syntax: str) -> None:
    """PS3.5 table 7.5-3 requires the length 0; pydicom and DCMTK ignore any other length."""
    whole = encode(
        syntax,
        sequence(syntax, element(0x00100020, "LO", b"OTHER", syntax), sequence_delimiter=True, item_delimiter=True),
    )
    odd = whole.replace(element(SEQUENCE_END, "", b"", syntax), element(SEQUENCE_END, "", b"", syntax, length=8))
    assert [IDENTITY] * 2 == [read(odd, syntax, size) for size in (1, 4096)]


# --- attributes for look-up -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_attributes_for_look_up_are_read_and_never_cause_a_refusal(syntax: str) -> None:
    """The first of several values is kept; a value that is too long, or has no length, is skipped.

    Verified to fail when `ElementScanner.decisive` contains these attributes.
    """
    accession = element(0x00080050, "SH", b" ACC-1 ", syntax)
    other = element(0x00080050, "SH", b"ACC-2", syntax)
    endless = element(0x00080050, "SQ", b"", syntax, UNDEFINED) + element(SEQUENCE_END, "", b"", syntax)
    long = element(0x00080050, "UT", bytes(1 << 17), syntax)
    date = element(0x00080020, "DA", b"20260105", syntax)
    modality = element(0x00080060, "CS", b"CT", syntax)

    def look_up(before_patient: bytes) -> object:
        results = {
            tuple(sorted(read(encode(syntax, before_patient), syntax, size).look_up.items())) for size in (7, 1 << 20)
        }
        assert len(results) == 1
        return dict(results.pop())

    assert {"accession_number": "ACC-1", "study_date": "20260105", "modality": "CT"} == look_up(
        date + accession + modality
    )
    assert {"accession_number": "ACC-1"} == look_up(accession + other)
    assert {"modality": "CT"} == look_up(endless + modality) == look_up(long + modality)
    assert {} == look_up(b"")
