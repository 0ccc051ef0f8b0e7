"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from dicom_adapter.api.counts import counted


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (1, "instance", "1 instance"),
        (0, "instance", "0 instances"),
        (2, "study", "2 studies"),
        (2, "day", "2 days"),
        (2, "series", "2 series"),
        (2, "other sender", "2 other senders"),
    ],
)
def test_a_noun_has_the_form_for_its_number(number: int, noun: str, expected: str) -> None:
    assert expected == counted(number, noun)
