"""Step 5 (`submit`) of the flow: the DICOM attributes that the configuration lists, as metadata of a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items

VALUE_BYTES = 256  # maximum length of a value in UTF-8 that the Clara Platform accepts


def read_metadata(files: Iterable[BinaryIO], keywords: Sequence[str]) -> dict[str, str]:
    """Return the value of each attribute by its tag, `GGGGEEEE`; several values as `GGGGEEEE-0`, `GGGGEEEE-1`, …"""
    found: dict[str, dict[str, None]] = {keyword: {} for keyword in keywords}  # ordered sets
    for file in files:
        with file:
            header = dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))
        for keyword in keywords:
            text = _text(_value(header, keyword))
            if text:
                found[keyword][text] = None
    return {name: text for keyword, texts in found.items() for name, text in _named(keyword, list(texts))}


def _value(header: Dataset, keyword: str) -> object:
    try:
        return header.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises many errors for malformed values; they count as missing
        return None


def _text(value: object) -> str:
    """Return the value as text; "" if the value is missing, a sequence or bytes."""
    if value is None or isinstance(value, (Items, bytes)):
        return ""
    text = "\\".join(str(part) for part in value) if isinstance(value, MultiValue) else str(value)
    return text.encode("utf-8", "replace")[:VALUE_BYTES].decode("utf-8", "ignore")


def _named(keyword: str, texts: list[str]) -> list[tuple[str, str]]:
    tag = f"{tag_for_keyword(keyword):08X}"
    if len(texts) == 1:
        return [(tag, texts[0])]
    return [(f"{tag}-{number}", text) for number, text in enumerate(texts)]
