"""The table of a lane's reactions has a reaction to every error of a turn, and every outcome occurs in it."""

from __future__ import annotations

import errno

import pytest

from dicom_adapter import Retriable, Unprocessable
from dicom_adapter.flow.process.reactions import REACTIONS, Reaction, TurnKind, TurnOutcome, classify
from dicom_adapter.flow.process.requests import RequestFailed
from dicom_adapter.flow.process.turn import Superseded, Unavailable

ERRORS = [
    Unprocessable("no"),
    Unavailable(),
    Superseded(7),
    Superseded(8),
    Retriable("later"),
    ValueError(),
    SystemExit(),
    RequestFailed(Retriable("later")),
    RequestFailed(ValueError()),
    OSError(errno.EMFILE, "Too many open files"),
]


def can_raise(kind: TurnKind, error: BaseException) -> bool:
    """Return whether a turn of this kind can raise this error. Only requests wrap errors."""
    if isinstance(error, RequestFailed):
        return kind in (TurnKind.REQUEST, TurnKind.NOTICE)
    return not (isinstance(error, Superseded) and kind is TurnKind.BUILD)


@pytest.mark.parametrize("kind", TurnKind)
def test_there_is_a_reaction_to_every_error_of_a_turn(kind: TurnKind) -> None:
    """Verified to fail when the cell of a crashed notice is missing in the table."""
    outcomes = [classify(kind, error, superseded_by=7) for error in ERRORS if can_raise(kind, error)]
    assert [] == [outcome for outcome in outcomes if (outcome, kind) not in REACTIONS]


@pytest.mark.parametrize("outcome", TurnOutcome)
def test_every_outcome_has_a_reaction(outcome: TurnOutcome) -> None:
    assert any(row is outcome for row, _kind in REACTIONS)


def test_a_failed_request_keeps_the_processor() -> None:
    assert Reaction.NONE is REACTIONS[TurnOutcome.REQUEST_FAILED, TurnKind.REQUEST]


def test_only_a_second_turn_superseded_by_the_same_arrival_is_a_failure() -> None:
    """A new processor receives the newer arrival. If it still ignores that arrival, it would do so forever."""
    assert TurnOutcome.SUPERSEDED is classify(TurnKind.INSTANCE, Superseded(7), superseded_by=3)
    assert TurnOutcome.SUPERSEDED_AGAIN is classify(TurnKind.INSTANCE, Superseded(7), superseded_by=7)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_lack_of_descriptors_or_memory_is_an_outage(number: int) -> None:
    """The lane waits: it is not stopped, and no instance is quarantined.

    Verified to fail when such an error counts as a crash.
    """
    failure = OSError(number, "")
    assert {TurnOutcome.UNAVAILABLE} == {classify(kind, failure, superseded_by=0) for kind in TurnKind}
    assert TurnOutcome.REQUEST_RETRIABLE is classify(TurnKind.NOTICE, RequestFailed(failure), superseded_by=0)
    wrapped = RuntimeError()
    wrapped.__cause__ = failure
    assert TurnOutcome.UNAVAILABLE is classify(TurnKind.INSTANCE, wrapped, superseded_by=0)
