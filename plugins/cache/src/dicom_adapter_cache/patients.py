"""Comparison of the patients of the instances of a study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NAME_GROUPS = 3  # alphabetic, ideographic and phonetic representation (PS3.5 section 6.2.1.1)
SEXES = ("F", "M")


def is_conflict(rows: Iterable[Any]) -> bool:
    """Return whether headers disagree about the patient.

    Patient ID and issuer must be the same in all headers; a missing value is different from any other value. Name,
    birth date and sex must not contradict each other. For these, missing values, and differences in case or padding,
    are not a contradiction. A sex other than F and M counts as missing, because devices send "O" for an unknown sex.
    """
    distinct = {
        (row.patient_id, row.issuer_of_patient_id, row.patient_name, row.patient_birth_date, row.patient_sex)
        for row in rows
    }
    if len(distinct) < 2:
        return False
    if len({(patient_id, issuer) for patient_id, issuer, *_rest in distinct}) > 1:
        return True
    values = zip(*(_comparable(name, birth_date, sex) for _id, _issuer, name, birth_date, sex in distinct), strict=True)
    return any(len({value for value in column if value}) > 1 for column in values)


def _comparable(name: str, birth_date: str, sex: str) -> tuple[str, ...]:
    """Return the values in a normalized form: two values are equal if their forms are equal."""
    groups = [*name.split("="), *[""] * NAME_GROUPS][:NAME_GROUPS]
    digits = "".join(character for character in birth_date if character not in ".-")  # ACR-NEMA: 1970.01.01
    return (*map(_group, groups), digits.strip(), sex.upper() if sex.upper() in SEXES else "")


def _group(text: str) -> str:
    """Return one representation of a name without case, padding and empty components at its end."""
    components = [" ".join(component.split()) for component in text.casefold().split("^")]
    return "^".join(components).rstrip("^")
