"""Rollout: the order in which processes receive a configuration, and the effect of a process that does not apply it."""

from __future__ import annotations

from datetime import datetime, timezone

from dicom_adapter.ledger.configurations import Configuration, ConfigurationState, Draining, ReloadRequest
from dicom_adapter.service.reload.requests import RolloutResult
from dicom_adapter.service.reload.rollout import Rollout

APPLIED = {"event": "applied"}
ENDED = {"event": "ended", "status": -9}


def requested(*, restart_host: bool = False) -> Configuration:
    return Configuration(
        number=2,
        text="",
        folder="",
        settings={},
        request=ReloadRequest(replaces=1, restart_host=restart_host),
        draining=Draining(),
        state=ConfigurationState.REQUESTED,
        reason="",
        changed_at=datetime.now(timezone.utc),
    )


class Processes:
    """Fake processes that record the calls of a rollout."""

    def __init__(self, *receivers: str, has_host: bool = True) -> None:
        self.receivers = set(receivers)
        self.has_host = has_host
        self.calls: list[str] = []

    def configure_host(self, requested: Configuration) -> bool:
        self.calls.append("configure host")
        return self.has_host

    def restart_host(self, requested: Configuration) -> bool:
        self.calls.append("restart host")
        return self.has_host

    def configure_receivers(self) -> set[str]:
        self.calls.append("configure receivers")
        return set(self.receivers)

    def restart_receiver(self, name: str) -> None:
        self.calls.append(f"restart {name}")

    def roll_back(self) -> None:
        self.calls.append("roll back")


def test_receivers_are_configured_after_the_host_and_the_last_one_completes_the_rollout() -> None:
    """Receivers never accept instances for an AE title that the host does not know."""
    processes = Processes("receiver 1", "receiver 2")
    rollout = Rollout(requested(), processes)
    assert rollout.receive("receiver 1", APPLIED) is None
    assert ["configure host"] == processes.calls
    assert rollout.receive("host", APPLIED) is None
    assert ["configure host", "configure receivers"] == processes.calls
    assert rollout.receive("receiver 2", APPLIED) is None
    assert RolloutResult() == rollout.receive("receiver 1", APPLIED)


def test_the_previous_configuration_stays_if_the_host_fails_to_apply_a_new_one() -> None:
    """No receiver is configured."""
    for report, why in (({"event": "not-applied", "reason": "no"}, "no"), (ENDED, "the host ended with status -9")):
        processes = Processes("receiver")
        assert RolloutResult(refusal=why) == Rollout(requested(), processes).receive("host", report)
        assert ["configure host", "roll back"] == processes.calls


def test_a_host_that_has_to_restart_ends_first() -> None:
    """Reports of the old host are ignored. The new host completes its part when it is ready."""
    processes = Processes("receiver")
    rollout = Rollout(requested(restart_host=True), processes)
    assert ["restart host"] == processes.calls
    for report in ({"event": "ready"}, ENDED):
        assert rollout.receive("host", report) is None
    assert rollout.receive("host", {"event": "ready"}) is None
    assert RolloutResult() == rollout.receive("receiver", APPLIED)


def test_the_previous_configuration_stays_if_the_restarted_host_cannot_start() -> None:
    """The next host starts with the previous configuration."""
    processes = Processes("receiver")
    rollout = Rollout(requested(restart_host=True), processes)
    rollout.receive("host", ENDED)
    assert RolloutResult(refusal="the host ended with status -9") == rollout.receive("host", ENDED)
    assert ["restart host", "roll back"] == processes.calls


def test_a_host_that_does_not_run_is_started_with_the_configuration() -> None:
    """The supervisor would restart the host in any case."""
    processes = Processes("receiver", has_host=False)
    rollout = Rollout(requested(), processes)
    assert rollout.receive("host", {"event": "ready"}) is None
    assert ["configure host", "restart host", "configure receivers"] == processes.calls


def test_receivers_that_fail_to_apply_the_configuration_are_restarted_with_it() -> None:
    """At this point the host uses the configuration, so nothing is rolled back."""
    processes = Processes("receiver 1", "receiver 2")
    rollout = Rollout(requested(), processes)
    rollout.receive("host", APPLIED)
    assert rollout.receive("receiver 1", {"event": "not-applied", "reason": "no"}) is None
    assert RolloutResult() == rollout.receive("receiver 2", ENDED)
    assert "restart receiver 1" in processes.calls


def test_processors_that_hang_are_reported() -> None:
    """The configuration is applied, but not yet for the AE titles of these processors."""
    rollout = Rollout(requested(), Processes())
    outcome = rollout.receive("host", {"event": "applied", "hanging": ["LUNG"]})
    assert outcome is not None
    assert ("", True) == (outcome.refusal, "the processors of LUNG hang" in outcome.note)
