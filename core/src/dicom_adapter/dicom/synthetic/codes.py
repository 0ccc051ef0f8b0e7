"""Coded entries (PS3.3 section 8.8)."""

from __future__ import annotations

from pydicom.dataset import Dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return one item of a code sequence."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def item(**attributes: object) -> Dataset:
    """Return one item of any sequence."""
    result = Dataset()
    for keyword, value in attributes.items():
        setattr(result, keyword, value)
    return result
