"""Part of step 5: the DICOM attributes that the configuration lists, as metadata of a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

VALUE_BYTES = 256  # the longest value that the Clara Platform takes, in UTF-8


def dicom_metadata(files: Iterable[BinaryIO], keywords: Sequence[str]) -> dict[str, str]:
    """Each attribute's value under its tag as `GGGGEEEE`; several distinct values as `GGGGEEEE-0`, `GGGGEEEE-1`, …"""
    found: dict[str, dict[str, None]] = {keyword: {} for keyword in keywords}  # ordered sets
    for file in files:
        with file:
            header = dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))
        for keyword in keywords:
            text = _text(header.get(keyword))
            if text:
                found[keyword][text] = None
    return {name: text for keyword, texts in found.items() for name, text in _named(keyword, list(texts))}


def _text(value: object) -> str:
    text = "\\".join(str(part) for part in value) if isinstance(value, MultiValue) else str(value or "")
    return text.encode("utf-8", "replace")[:VALUE_BYTES].decode("utf-8", "ignore")


def _named(keyword: str, texts: list[str]) -> list[tuple[str, str]]:
    tag = f"{tag_for_keyword(keyword):08X}"
    if len(texts) == 1:
        return [(tag, texts[0])]
    return [(f"{tag}-{number}", text) for number, text in enumerate(texts)]
