"""A configuration on its way to the processes: who takes it when, and what becomes of it when somebody does not."""

from __future__ import annotations

from datetime import datetime, timezone

from dicom_adapter.ledger.configurations import Configuration, Leaving, State, Wanted
from dicom_adapter.service.reload.requests import Outcome
from dicom_adapter.service.reload.rollout import Passing

TAKEN = {"event": "taken"}
GONE = {"event": "gone", "status": -9}


def asked(*, restart_host: bool = False) -> Configuration:
    return Configuration(
        number=2,
        text="",
        folder="",
        settings={},
        wanted=Wanted(replaces=1, restart_host=restart_host),
        leaving=Leaving(),
        state=State.ASKED,
        reason="",
        changed_at=datetime.now(timezone.utc),
    )


class Processes:
    """Says what it is asked to do."""

    def __init__(self, *receivers: str, has_host: bool = True) -> None:
        self.receivers = set(receivers)
        self.has_host = has_host
        self.calls: list[str] = []

    def give_host(self, asked: Configuration) -> bool:
        self.calls.append("give host")
        return self.has_host

    def restart_host(self, asked: Configuration) -> bool:
        self.calls.append("restart host")
        return self.has_host

    def give_receivers(self) -> set[str]:
        self.calls.append("give receivers")
        return set(self.receivers)

    def renew_receiver(self, name: str) -> None:
        self.calls.append(f"renew {name}")

    def go_back(self) -> None:
        self.calls.append("go back")


def test_receivers_get_it_when_the_host_has_taken_it_and_it_is_done_with_the_last_one() -> None:
    """Receivers never take for an AE title of which the host does not know."""
    processes = Processes("receiver 1", "receiver 2")
    passing = Passing(asked(), processes)
    assert passing.hear("receiver 1", TAKEN) is None
    assert ["give host"] == processes.calls
    assert passing.hear("host", TAKEN) is None
    assert ["give host", "give receivers"] == processes.calls
    assert passing.hear("receiver 2", TAKEN) is None
    assert Outcome() == passing.hear("receiver 1", TAKEN)


def test_a_host_that_does_not_take_it_or_dies_over_it_leaves_everything_as_it_was() -> None:
    """No receiver hears of it."""
    for said, why in (({"event": "not-taken", "reason": "no"}, "no"), (GONE, "the host ended with status -9")):
        processes = Processes("receiver")
        assert Outcome(refusal=why) == Passing(asked(), processes).hear("host", said)
        assert ["give host", "go back"] == processes.calls


def test_a_host_that_is_restarted_for_it_ends_first() -> None:
    """What the old one says is no answer; the new one that works is."""
    processes = Processes("receiver")
    passing = Passing(asked(restart_host=True), processes)
    assert ["restart host"] == processes.calls
    for said in ({"event": "ready"}, GONE):
        assert passing.hear("host", said) is None
    assert passing.hear("host", {"event": "ready"}) is None
    assert Outcome() == passing.hear("receiver", TAKEN)


def test_a_restarted_host_that_cannot_begin_leaves_everything_as_it_was() -> None:
    """The next one begins with the earlier configuration."""
    processes = Processes("receiver")
    passing = Passing(asked(restart_host=True), processes)
    passing.hear("host", GONE)
    assert Outcome(refusal="the host ended with status -9") == passing.hear("host", GONE)
    assert ["restart host", "go back"] == processes.calls


def test_a_host_that_is_not_there_begins_with_it() -> None:
    """It is about to be started anyway."""
    processes = Processes("receiver", has_host=False)
    passing = Passing(asked(), processes)
    assert passing.hear("host", {"event": "ready"}) is None
    assert ["give host", "restart host", "give receivers"] == processes.calls


def test_receivers_that_do_not_take_it_or_die_come_back_with_it() -> None:
    """By then it runs: nobody goes back."""
    processes = Processes("receiver 1", "receiver 2")
    passing = Passing(asked(), processes)
    passing.hear("host", TAKEN)
    assert passing.hear("receiver 1", {"event": "not-taken", "reason": "no"}) is None
    assert Outcome() == passing.hear("receiver 2", GONE)
    assert "renew receiver 1" in processes.calls


def test_processors_that_hang_are_told_of() -> None:
    """It runs, but not for them yet."""
    passing = Passing(asked(), Processes())
    outcome = passing.hear("host", {"event": "taken", "hanging": ["LUNG"]})
    assert outcome is not None
    assert ("", True) == (outcome.refusal, "the processors of LUNG hang" in outcome.note)
