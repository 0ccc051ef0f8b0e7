"""The page about metrics describes every metric and every word of their labels."""

from __future__ import annotations

import re

import pytest

from dicom_adapter import JobState
from dicom_adapter.ledger.jobs import FINISHED, HELD, UNFINISHED
from dicom_adapter.runtime.measures import ASSOCIATIONS, JOBS_ENDED, RECEIVED_INSTANCES, REJECTIONS
from manual.metrics import metrics_updated
from support.pages import DOCS

PAGE = DOCS / "metrics.md"


def words_after(label: str) -> set[str]:
    """Return the words that the list item about a label names."""
    text = PAGE.read_text(encoding="utf-8")
    (item,) = re.findall(rf"^- {re.escape(label)}(.*?)(?=^- |^\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return set(re.findall("`([a-z-]+)`", item))


def test_the_tables_of_metrics_match_the_code() -> None:
    """`make reference` writes the tables."""
    written = PAGE.read_text(encoding="utf-8")
    assert metrics_updated(written) == written, "docs/metrics.md is out of date: run `make reference`"


def test_a_page_without_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs two tables"):
        metrics_updated("# Metrics\n")


def test_each_word_of_a_label_is_described() -> None:
    assert set(RECEIVED_INSTANCES.words) == words_after("`outcome` of instances")
    assert set(ASSOCIATIONS.words) == words_after("`outcome` of associations")
    assert set(REJECTIONS.words) == words_after("`cause` of rejections")
    assert {state.value for state in (*FINISHED, *HELD)} == set(JOBS_ENDED.words) == words_after("`outcome` of jobs")
    assert {state.value for state in (*UNFINISHED, *HELD)} == words_after("`state` of jobs")
    assert set(JobState) == {*UNFINISHED, *HELD, *FINISHED}
