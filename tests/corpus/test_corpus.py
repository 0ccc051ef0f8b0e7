"""The adapter answers the corpus as recorded, and so do the other receivers that are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from corpus import page, receivers, results
from corpus.associations import odd_associations
from corpus.data_sets import odd_data_sets
from corpus.encoding import CT, SOP_INSTANCE_UID
from dicom_adapter.api.receiving import StoreOutcome, StoreRequest
from dicom_adapter.dicom.part10 import data_set_offset
from dicom_adapter.flow.store.commit import Store

OTHER_RECEIVERS = receivers.other_receivers()


def test_the_corpus_has_many_cases_with_different_names() -> None:
    """A case that is lost, or that replaces another case of the same name, is noticed."""
    for cases, least in ((list(odd_data_sets()), 80), (list(odd_associations()), 60)):
        assert len({case.name for case in cases}) == len(cases) >= least


def test_the_adapter_answers_as_recorded(tmp_path: Path) -> None:
    """If an answer was changed on purpose: `make corpus ARGS="--write --only dicom-adapter"`."""
    answers = results.run(receivers.adapter, tmp_path)
    assert [] == list(results.compare(receivers.OWN, results.read()[receivers.OWN], answers))


@pytest.mark.slow
@pytest.mark.timeout(600)  # some receivers never answer what they cannot parse
@pytest.mark.parametrize("name", OTHER_RECEIVERS)
def test_other_receivers_answer_as_recorded(name: str, tmp_path: Path) -> None:
    """The page of the documentation compares the adapter with these receivers. Other versions may answer otherwise.

    Silence is not compared: on a busy machine, a receiver that has answered may be silent, and the reverse.
    """
    known = results.read()
    if name not in known:
        pytest.skip(f"there are no recorded answers of {name}")
    answers = results.run(OTHER_RECEIVERS[name], tmp_path)
    assert [] == [line for line in results.compare(name, known[name], answers) if "silent" not in line]


def test_acknowledged_data_sets_are_stored_unchanged(make_adapter: Any) -> None:
    """Verified to fail when the data set is parsed and encoded again."""
    adapter = make_adapter(receivers.CONFIGURATION, receivers.GROUPING)
    store = Store(adapter.config, adapter.resources)
    request = StoreRequest(
        ae_title=receivers.AE_TITLE,
        calling_ae_title="ODD",
        peer_address="127.0.0.1",
        association_id="0" * 32,
        sop_class_uid=CT,
        sop_instance_uid=SOP_INSTANCE_UID,
        transfer_syntax_uid="",
    )
    for case in odd_data_sets():
        sent = evolve(request, transfer_syntax_uid=case.syntax, sop_instance_uid=case.sop_instance_uid)
        result = store.keep(sent, case.data)
        if result.outcome is StoreOutcome.STORED:
            assert result.instance is not None
            with adapter.resources.storage.read(result.instance.storage_key) as file:
                content = file.read()
            assert case.data == content[data_set_offset(content) :], case.name


def test_the_page_shows_the_recorded_answers() -> None:
    """The page is not edited by hand: `make corpus ARGS=--write` writes it."""
    assert page.render(results.read()) == page.current()


def test_every_difference_has_a_reason() -> None:
    """The page explains each case in which the adapter and another receiver differ."""
    assert [] == [row.case for row in page.differences(results.read()) if not row.reason]
