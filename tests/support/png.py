"""Small PNG files for the documentation (PNG specification, W3C): 256 colours instead of 16 million."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL = 3  # bytes of a pixel of a screenshot: red, green, blue
COLOURS = 256
Colour = tuple[int, ...]


def with_palette(png: bytes) -> bytes:
    """Return a screenshot of Chromium with 256 of its colours; other colours become the nearest of them."""
    chunks = dict(_chunks(png))
    width, height, *form = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert [8, 2, 0, 0, 0] == form, "8 bits, red, green and blue, not interlaced"
    lines = [list(zip(*[iter(line)] * PIXEL, strict=True)) for line in _lines(chunks[b"IDAT"], width * PIXEL)]
    counts = Counter(pixel for line in lines for pixel in line)
    palette = _palette(counts)
    number = {colour: _nearest(colour, palette) for colour in counts}
    rows = b"".join(b"\0" + bytes(number[pixel] for pixel in line) for line in lines)
    return SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes(value for colour in palette for value in colour)),
            _chunk(b"IDAT", zlib.compress(rows, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _palette(counts: Counter[Colour]) -> list[Colour]:
    """Return the most frequent colours; first one of each group of similar colours, because small texts are rare."""
    by_group: dict[Colour, Colour] = {}
    for colour, _count in counts.most_common():
        by_group.setdefault(tuple(value >> 4 for value in colour), colour)
    frequent = (colour for colour, _count in counts.most_common())
    return list(dict.fromkeys((*by_group.values(), *frequent)))[:COLOURS]


def _nearest(colour: Colour, palette: list[Colour]) -> int:
    def distance(number: int) -> int:
        return sum((one - other) ** 2 for one, other in zip(colour, palette[number], strict=True))

    return min(range(len(palette)), key=distance)


def _chunks(png: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Return the chunks by type; those of one type are joined."""
    found: dict[bytes, bytes] = {}
    at = len(SIGNATURE)
    while at < len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        found[kind] = found.get(kind, b"") + png[at + 8 : at + 8 + size]
        at += size + 12
    return found.items()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _lines(compressed: bytes, size: int) -> Iterator[bytes]:
    """Yield the lines of an image without their filters (section 9 of the specification)."""
    content, above = zlib.decompress(compressed), bytearray(size)
    for start in range(0, len(content), size + 1):
        kind, line = content[start], bytearray(content[start + 1 : start + 1 + size])
        for at in range(size):
            left, corner = (line[at - PIXEL], above[at - PIXEL]) if at >= PIXEL else (0, 0)
            line[at] = (line[at] + _predicted(kind, left, above[at], corner)) & 0xFF
        yield bytes(line)
        above = line


def _predicted(kind: int, left: int, above: int, corner: int) -> int:
    if kind == 4:  # Paeth
        nearest = left + above - corner
        return min((left, above, corner), key=lambda value: abs(nearest - value))
    return (0, left, above, (left + above) // 2)[kind]
