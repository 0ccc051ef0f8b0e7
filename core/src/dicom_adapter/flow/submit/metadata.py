"""Step 5 (`submit`) of the flow: the DICOM attributes that the configuration lists, as metadata of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

from attrs import Factory, define
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items

from dicom_adapter.dicom.headers import read_header
from dicom_adapter.dicom.identity import UnreadableDataSet

VALUE_BYTES = 256  # maximum length of a value in UTF-8 that the Clara Platform accepts


@define
class Omitted:
    """The attributes of a job that were omitted, because they cannot be parsed."""

    instance_ids: set[int] = Factory(set)
    keywords: set[str] = Factory(set)  # DICOM keywords of the omitted attributes
    first: int = 0  # id of the first instance with an omitted value
    reason: str = ""  # reason for the first omitted value, without patient data

    def add(self, instance_id: int, keyword: str, reason: str) -> None:
        self.first, self.reason = self.first or instance_id, self.reason or reason
        self.instance_ids.add(instance_id)
        self.keywords.add(keyword)

    def describe(self) -> dict[str, object]:
        """Return the detail of an event."""
        return {
            "attributes": sorted(self.keywords),
            "instances": len(self.instance_ids),
            "first": self.first,
            "reason": self.reason,
        }


OnOmitted = Callable[
    [int, str, str], None
]  # position of the file, from 0 (not an instance id); keyword; reason without patient data


def _ignore(_position: int, _keyword: str, _reason: str) -> None: ...


def read_metadata(
    files: Iterable[BinaryIO], keywords: Sequence[str], on_omitted: OnOmitted = _ignore
) -> dict[str, str]:
    """Return the value of each attribute by its tag, `GGGGEEEE`; different values as `GGGGEEEE-0`, `GGGGEEEE-1`, …

    Files may have different values. Multiple values of one file are joined with backslashes. Values that cannot be
    parsed are omitted and reported to `on_omitted`. Raises OSError if a file cannot be read.
    """
    found: dict[str, dict[str, None]] = {keyword: {} for keyword in keywords}  # ordered sets
    for position, file in enumerate(files):
        try:
            with file:
                header = read_header(file, specific_tags=list(keywords))
        except UnreadableDataSet as failure:
            for keyword in keywords:
                on_omitted(position, keyword, str(failure))
            continue
        for keyword in keywords:
            try:
                text = _text(header.get(keyword))
            except Exception as failure:  # noqa: BLE001 - pydicom raises many types for malformed values
                on_omitted(position, keyword, f"its value cannot be parsed ({type(failure).__name__})")
            else:
                if text:
                    found[keyword][text] = None
    return {name: text for keyword, texts in found.items() for name, text in _named(keyword, list(texts))}


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
