"""Storage keys of the `local` storage backend: the name of a segment, and the number of a block in it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from dicom_adapter.api.errors import StoredObjectMissing
from dicom_adapter.storage.local.segment import BLOCK

NAME = re.compile(r"[0-9a-f]{32}")
BLOCK_NUMBER = re.compile(r"[0-9a-f]{1,10}")


def key_of(name: str, start: int) -> str:
    """Return the key of the record that begins at this offset of a segment."""
    return f"{name}-{start // BLOCK:x}"


def parse(key: str) -> tuple[str, int]:
    """Return segment and offset of a key. Raises StoredObjectMissing if `key` is not a key of this backend."""
    name, _dash, block = key.partition("-")
    if NAME.fullmatch(name) is None or BLOCK_NUMBER.fullmatch(block) is None:
        raise missing(key)
    return name, int(block, 16) * BLOCK


def group_by_segment(keys: Iterable[str]) -> Mapping[str, list[int]]:
    """Return the offsets of the keys by segment."""
    offsets: dict[str, list[int]] = defaultdict(list)
    for name, start in map(parse, keys):
        offsets[name].append(start)
    return offsets


def missing(key: str) -> StoredObjectMissing:
    """Return the error to raise for a key without an object."""
    return StoredObjectMissing(
        f"storage key {key[:44]!r}: the local storage has no such object; it was deleted or lost"
    )
