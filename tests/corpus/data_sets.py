"""Odd data sets: out of order, wrongly encoded, damaged, or with odd values. Each is one C-STORE request."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from attrs import evolve, frozen

from corpus.encoding import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    ITEM_END,
    JPEG,
    JPEG_2000,
    NAMES,
    RLE,
    SEQUENCE_END,
    SOP_INSTANCE_UID,
    UNDEFINED,
    Element,
    changed,
    encode,
    fragments,
    plain,
    sequence,
)

NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN)  # transfer syntaxes without compression
WITH_VR = (EXPLICIT, BIG_ENDIAN)  # transfer syntaxes whose elements have a VR


@frozen(kw_only=True)
class OddDataSet:
    """A data set, and the transfer syntax under which it is sent."""

    name: str
    syntax: str
    data: bytes
    sop_instance_uid: str = SOP_INSTANCE_UID  # of the request


def odd_data_sets() -> Iterator[OddDataSet]:
    yield from _orders()
    yield from _encodings()
    yield from _vrs()
    yield from _sequences()
    yield from _lengths()
    yield from _uids()
    yield from _patients()
    yield from _pixels()
    yield from _remains()


def _case(name: str, syntax: str, elements: list[Element], after: bytes = b"", **request: str) -> OddDataSet:
    data = encode(elements, syntax) + after
    return OddDataSet(name=f"{name}, {NAMES[syntax]}", syntax=syntax, data=data, **request)


def _orders() -> Iterator[OddDataSet]:
    for syntax in NATIVE:
        elements = plain()
        yield _case("tags descend", syntax, list(reversed(elements.values())))
        for late in ("patient", "study", "issuer"):
            others = [element for name, element in elements.items() if name != late]
            yield _case(f"{late} behind the pixels", syntax, [*others, elements[late]])
    others = [element for name, element in plain().items() if name != "charset"]
    yield _case("character set last", EXPLICIT, [*others, plain()["charset"]])
    yield _case("one patient id twice", EXPLICIT, [*plain().values(), plain()["patient"]])
    yield _case("two patient ids", EXPLICIT, [*plain().values(), evolve(plain()["patient"], value=b"PID-2")])


def _encodings() -> Iterator[OddDataSet]:
    for syntax in NATIVE:
        for actual in NATIVE:
            if actual != syntax:
                data = encode(list(plain().values()), actual)
                yield OddDataSet(name=f"{NAMES[actual]} instead of {NAMES[syntax]}", syntax=syntax, data=data)
        yield _case("encapsulated pixels", syntax, changed(pixels=fragments(b"\xff\xd8\xff\xd9")))
    for syntax in (JPEG, RLE, JPEG_2000):
        yield OddDataSet(
            name=f"native pixels, {NAMES[syntax]}", syntax=syntax, data=encode(list(plain().values()), EXPLICIT)
        )
    for actual in (IMPLICIT, BIG_ENDIAN):
        data = encode(changed(pixels=None), actual)
        yield OddDataSet(name=f"{NAMES[actual]} instead of JPEG", syntax=JPEG, data=data)
    meta = Element(0x00020010, "UI", EXPLICIT.encode())
    yield _case("file meta information in the data set", EXPLICIT, [meta, *plain().values()])
    file = bytes(128) + b"DICM" + encode([meta, *plain().values()], EXPLICIT)
    yield OddDataSet(name="a whole file instead of a data set", syntax=EXPLICIT, data=file)


def _vrs() -> Iterator[OddDataSet]:
    for syntax in WITH_VR:
        for vr, title in (("??", "question marks"), ("  ", "blanks"), ("\0\0", "NULs"), ("ZZ", "an unknown name")):
            yield _case(f"VR of {title}", syntax, changed(odd=Element(0x00091001, vr, b"whatever")))
        yield _case("VR in lower case", syntax, changed(odd=Element(0x00091001, "lo", b"whatever")))
        long = Element(0x00091001, "UT", b"w" * 70_000).encode(syntax).replace(b"UT", b"ZZ")
        parts = [element.encode(syntax) for element in changed()]
        data = b"".join([*parts[:5], long, *parts[5:]])
        yield OddDataSet(name=f"new VR with a long value, {NAMES[syntax]}", syntax=syntax, data=data)
        items = Element(ITEM, "", Element(0x00100020, "LO", b"OTHER").encode(IMPLICIT)).encode(IMPLICIT)
        unknown = items + Element(SEQUENCE_END, "", b"").encode(IMPLICIT)
        yield _case("UN of undefined length", syntax, changed(odd=Element(0x00091001, "UN", unknown, UNDEFINED)))
        yield _case("patient id as UN", syntax, changed(patient=Element(0x00100020, "UN", b"PID-1")))


def _sequences() -> Iterator[OddDataSet]:
    for syntax in NATIVE:
        other = Element(0x00100020, "LO", b"OTHER").encode(syntax)
        yield _case("another patient in a sequence", syntax, changed(odd=sequence(syntax, other)))
        yield _case("a sequence without its end", syntax, changed(odd=sequence(syntax, other, has_delimiters=False)))
        whole = encode(changed(odd=sequence(syntax, other)), syntax)
        for tag, title in ((ITEM_END, "item"), (SEQUENCE_END, "sequence")):
            right, wrong = Element(tag, "", b"").encode(syntax), Element(tag, "", b"", 8).encode(syntax)
            yield OddDataSet(
                name=f"delimiter of the {title} with a length, {NAMES[syntax]}",
                syntax=syntax,
                data=whole.replace(right, wrong),
            )
    for depth in (20, 400):
        content = b""
        for _ in range(depth):
            content = sequence(EXPLICIT, content).encode(EXPLICIT)
        yield _case(f"{depth} nested sequences", EXPLICIT, changed(odd=sequence(EXPLICIT, content)))
    yield _case("an empty sequence", EXPLICIT, changed(odd=Element(0x00081140, "SQ", b"")))


def _lengths() -> Iterator[OddDataSet]:
    for syntax in NATIVE:
        yield _case("odd lengths", syntax, [evolve(element, is_padded=False) for element in plain().values()])
        yield _case("a length that is too long", syntax, changed(odd=Element(0x00091001, "LO", b"12345678", 12)))
        yield _case("a length that is too short", syntax, changed(odd=Element(0x00091001, "LO", b"12345678", 4)))
        yield _case("truncated pixels", syntax, changed(pixels=Element(0x7FE00010, "OW", b"1234", 4000)))
        beginning = list(plain().values())[:6]
        yield _case("truncated patient id", syntax, [*beginning, Element(0x00100020, "LO", b"PID", 60)])
    large = [Element(0x00090010 + number, "OB", bytes(1 << 20)) for number in range(5)]
    yield _case(
        "5 MiB before the patient",
        EXPLICIT,
        changed(**{str(large_element.tag): large_element for large_element in large}),
    )
    size = struct.pack("<I", 99)
    yield _case("a wrong group length", EXPLICIT, changed(odd=Element(0x00080000, "UL", size)))


def _uids() -> Iterator[OddDataSet]:
    odd = {
        "with a blank": b"1.2.3 ",
        "with a NUL": b"1.2.3\0",
        "with a component 01": b"1.2.01.3",
        "of 65 characters": b"1." + b"2" * 63,
        "with letters": b"1.2.abc",
        "with a line feed": b"1.2.3\n",
        "that is empty": b"",
        "with two values": b"1.2.3\\1.2.4",
        "with a leading blank": b" 1.2.3",
        "that is a path": b"../../etc",
    }
    for title, value in odd.items():
        yield _case(f"study UID {title}", EXPLICIT, changed(study=Element(0x0020000D, "UI", value)))
    yield _case("no study UID", EXPLICIT, changed(study=None))
    yield _case("no series UID", EXPLICIT, changed(series=None))
    yield _case("no SOP instance UID", EXPLICIT, changed(instance=None))
    yield _case("another SOP instance UID than the request", EXPLICIT, changed(), sop_instance_uid="1.2.3.9")
    other = Element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.4")
    yield _case("another SOP class than the request", EXPLICIT, changed(**{"class": other}))


def _patients() -> Iterator[OddDataSet]:
    odd = {
        "that is empty": b"",
        "of blanks": b"    ",
        "of 70 characters": b"P" * 70,
        "with a backslash": b"A\\B",
        "with a NUL inside": b"A\0B",
        "with Latin-1 bytes": b"M\xfcller",
    }
    for title, value in odd.items():
        yield _case(f"patient id {title}", EXPLICIT, changed(patient=Element(0x00100020, "LO", value)))
    yield _case("no patient id", EXPLICIT, changed(patient=None))
    charsets = {
        "that is unknown": b"ISO_IR 999",
        "in lower case": b"iso_ir 100",
        "with a NUL inside": b"ISO_IR\0100",
        "of UTF-8 for Latin-1 bytes": b"ISO_IR 192",
        "GB18030": b"GB18030",
        "with escapes": b"\\ISO 2022 IR 87",
    }
    for title, value in charsets.items():
        patient = Element(0x00100020, "LO", b"M\xfcller")
        yield _case(
            f"character set {title}", EXPLICIT, changed(charset=Element(0x00080005, "CS", value), patient=patient)
        )


def _pixels() -> Iterator[OddDataSet]:
    yield _case("no pixels", EXPLICIT, changed(pixels=None))
    yield _case("empty pixels", EXPLICIT, changed(pixels=Element(0x7FE00010, "OW", b"")))
    odd = Element(0x7FE00010, "OW", b"123", is_padded=False)
    yield _case("pixels of an odd length", EXPLICIT, changed(pixels=odd))
    data = encode(changed(pixels=fragments(b"\xff\xd8\xff\xd9", has_table=False)), EXPLICIT)
    yield OddDataSet(name="encapsulated pixels without an offset table", syntax=JPEG, data=data)
    data = encode(changed(pixels=fragments()), EXPLICIT)
    yield OddDataSet(name="encapsulated pixels without a fragment", syntax=JPEG, data=data)
    data = encode(changed(pixels=fragments(b"\xff\xd8\xff\xd9")), EXPLICIT)[:-8]
    yield OddDataSet(name="encapsulated pixels without an end", syntax=JPEG, data=data)


def _remains() -> Iterator[OddDataSet]:
    for syntax in NATIVE:
        yield _case("zeros behind the data set", syntax, changed(), after=bytes(64))
        yield _case("garbage behind the data set", syntax, changed(), after=b"\xff\xfe\xfd\xfc" * 9)
    padding = Element(0xFFFCFFFC, "OB", bytes(50))
    yield _case("data set trailing padding", EXPLICIT, changed(odd=padding))
    yield OddDataSet(name="no data set at all", syntax=EXPLICIT, data=b"")
    yield OddDataSet(name="zeros instead of a data set", syntax=EXPLICIT, data=bytes(400))
    yield OddDataSet(name="text instead of a data set", syntax=EXPLICIT, data=b"Hello, PACS! " * 40)
    yield _case("only the first group", EXPLICIT, list(plain().values())[:5])
