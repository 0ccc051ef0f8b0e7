"""Instances that are stored, not yet entered in the ledger: pages show them, as commands do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dicom_adapter.flow.enter.journal import FOLDER
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger.health import PartHealth, PartState, processes, save
from dicom_adapter.operations.not_entered import LATE_SECONDS
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.web.access.principal import Role
from support.follow import CONFIGURATION, Sender

from .conftest import Board, headers_of

SOP_INSTANCE, PATIENT = "1.2.1", "PAT-9"


@pytest.fixture
def board(board_of: Callable[[str], Board]) -> Board:
    return board_of(CONFIGURATION)


@pytest.fixture
def stored(board: Board) -> ReceivedInstance:
    """An instance that a receiver has stored and acknowledged, while the host enters no rows."""
    sender = Sender(board.adapter, board.adapter.config.storage.path / FOLDER)
    received = sender.arrive(SOP_INSTANCE, patient=PATIENT)
    sender.store.commit([received])
    return received


def search(board: Board, value: str, role: Role) -> Any:
    return board.client.post("/studies/search", json={"value": value}, headers=headers_of(role)).json()


def test_a_study_without_rows_is_found_and_has_a_story(board: Board, stored: ReceivedInstance) -> None:
    """Verified to fail when the pages read the ledger only."""
    study = stored.study_instance_uid
    assert f"/studies/{study}" in board.get("/studies")
    assert [f"/studies/{study}"] * 2 == [search(board, value, Role.OPERATOR)["goTo"] for value in (study, PATIENT)]
    page = board.get(f"/studies/{study}")
    assert "1 instance from CT1 (127.0.0.1) is stored, not yet entered in the ledger" in page
    assert PATIENT in page


def test_a_viewer_sees_no_patient_data_of_it(board: Board, stored: ReceivedInstance) -> None:
    """Viewers find it by its UIDs only."""
    study = stored.study_instance_uid
    assert f"/studies/{SOP_INSTANCE}" == search(board, SOP_INSTANCE, Role.VIEWER)["goTo"]
    assert "" == search(board, PATIENT, Role.VIEWER)["goTo"]
    pages = [board.get(path, role=Role.VIEWER) for path in ("/studies", f"/studies/{study}")]
    assert [(True, False)] * 2 == [(study in page, PATIENT in page) for page in pages]


def test_the_overview_and_the_health_show_a_late_row(board: Board, stored: ReceivedInstance) -> None:
    """A row that is milliseconds late is no problem. Later, the pages show the instance without a row."""
    problem = "1 instance is stored, not yet entered in the ledger, the oldest for 11 s"
    now = board.adapter.clock.now()
    parts = [PartHealth(part=name, state=PartState.OK, since=now, seen_at=now) for name in processes(1)]
    with board.adapter.ledger.write() as transaction:
        save(transaction, parts)
    with DataFolder.of(board.adapter.config).as_service():
        first = board.get("/")
        board.adapter.clock.advance(LATE_SECONDS + 1)
        second, health = board.get("/"), board.read("/health").json()
    assert [False, True] == [problem in text for text in (first, second)]
    assert "No instance has arrived yet" not in first
    assert (problem, "entry of rows") in [(one["reason"], one["part"]) for one in health["problems"]]
