"""The page about the admin API lists every operation, and its example is right."""

from __future__ import annotations

import pytest

from dicom_adapter.web.admin.paging import MAX_PAGE, USUAL_PAGE
from manual.admin_api import operations_updated
from support.pages import DOCS

PAGE = DOCS / "how-to" / "admin-api.md"


def test_the_table_of_operations_matches_the_code() -> None:
    """`make reference` writes the table."""
    written = PAGE.read_text(encoding="utf-8")
    assert operations_updated(written) == written, "docs/how-to/admin-api.md is out of date: run `make reference`"


def test_a_page_without_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs one table"):
        operations_updated("# Admin API\n")


def test_the_limits_of_lists_are_right() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"from 1 to {MAX_PAGE}; the default is {USUAL_PAGE}" in text
