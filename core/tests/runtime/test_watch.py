"""Watching parts: a hang, repeated failures and a recovery are logged by name, even if the ledger is unavailable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.ledger import Ledger, health, recorded_events
from dicom_adapter.ledger.health import PartHealth, PartState
from dicom_adapter.runtime.parts import Part, PartKind, lane_part, process_part
from dicom_adapter.runtime.watch import EXAMINE_EVERY, MAX_UNWRITTEN, PartFinding, Watch, examine
from dicom_adapter.runtime.workers import SLICE_SECONDS, Condition
from dicom_adapter.testing import VirtualClock

NOW = VirtualClock().now()
BUSY = Condition(busy_since=NOW, busy_seconds=25.1)
HANGS = PartFinding(
    state=PartState.HANGS, reason="the call that began at 2026-01-05 08:00:00 UTC has not returned within 25 s"
)
SLOW = PartFinding(state=PartState.DEGRADED, reason="handle_instance of a plugin took up to 9.0 s")
OK = PartFinding()
LUNG = lane_part("LUNG")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", durable=False)
    opened.migrate()
    yield opened
    opened.close()


class Site:
    """A watch over parts whose condition the test changes."""

    def __init__(self, ledger: Ledger) -> None:
        self.clock = VirtualClock()
        self.ledger = ledger
        self.found: Mapping[Part, PartFinding] = {process_part("host"): OK, LUNG: OK}
        self.log_problem = ""
        self.watch = Watch(lambda: self.found, ledger, self.clock, lambda: self.log_problem)

    def examine(self, lung: PartFinding | None = None) -> list[Any]:
        """One second later, examine the parts.

        Return the events and parts that were logged. `lung` is a new finding.
        """
        self.clock.advance(1)
        self.found = {**self.found, LUNG: lung or self.found[LUNG]}
        with capture_logs() as logged:
            self.watch.examine()
        return [(entry["event"], entry["part"]) for entry in logged]

    @property
    def written(self) -> dict[str, PartHealth]:
        with self.ledger.read() as transaction:
            return health.load(transaction)

    @property
    def events(self) -> list[tuple[str, str]]:
        with self.ledger.read() as transaction:
            return [(event.event, event.ae_title) for _number, event in recorded_events.after(transaction, 0, 1000)]


@pytest.fixture
def site(ledger: Ledger) -> Site:
    return Site(ledger)


@pytest.mark.parametrize(
    ("part", "name", "seconds"),
    [
        (Part(PartKind.LANE, "LUNG"), "AE title LUNG", 25),
        (Part(PartKind.LANE, "submitter"), "AE title submitter", 25),
        (Part(PartKind.SUBMITTER, "lane"), "submitter lane", 3600),
        (Part(PartKind.NOTIFY), "notify", 30),
        (Part(PartKind.PROCESS, "receiver 2"), "receiver 2", 120),
    ],
)
def test_every_part_has_a_deadline_and_a_name_for_operators(part: Part, name: str, seconds: float) -> None:
    assert (name, seconds) == (str(part), part.kind.deadline_seconds)


@pytest.mark.parametrize(
    ("conditions", "finding"),
    [
        ([Condition()], OK),
        ([Condition(busy_since=NOW, busy_seconds=25.0)], OK),
        ([Condition(), BUSY], HANGS),
        ([Condition(failures=9), BUSY], HANGS),
        ([Condition(failures=2, error="KeyError")], OK),
        (
            [Condition(failures=2, error="KeyError"), Condition(failures=3, error="OSError at x.py:1 y")],
            PartFinding(state=PartState.FAILING, reason="failed 3 times in a row: OSError at x.py:1 y"),
        ),
    ],
)
def test_a_part_has_the_worst_condition_of_its_workers(conditions: list[Condition], finding: PartFinding) -> None:
    """A part hangs if a step exceeds its deadline, and fails after three failures in a row."""
    assert finding == examine(LUNG, conditions)


def test_a_hanging_processor_is_reported_within_30_seconds() -> None:
    """The turn may begin late in a step, right after an examination.

    Verified to fail when the deadline is 30 s.
    """
    turn_began_s = SLICE_SECONDS
    last_examination_s = turn_began_s + 30 - EXAMINE_EVERY.total_seconds()
    condition = Condition(busy_since=NOW, busy_seconds=last_examination_s)
    assert PartState.HANGS is examine(LUNG, [condition]).state


def test_each_change_is_logged_once_by_name(site: Site) -> None:
    """The initial state of a working part is not logged. A hang, a failure and a recovery are logged once each."""
    failing = PartFinding(state=PartState.FAILING, reason="failed 3 times in a row: OSError")
    still_failing = PartFinding(state=PartState.FAILING, reason="failed 4 times in a row: OSError")
    assert [] == site.examine()
    assert [("part_hangs", "AE title LUNG")] == site.examine(HANGS)
    assert [] == site.examine()
    assert [("part_failing", "AE title LUNG")] == site.examine(failing)
    assert [] == site.examine(still_failing)
    assert [("part_recovered", "AE title LUNG")] == site.examine(OK)
    site.watch.write()
    assert [("part_hangs", "LUNG"), ("part_failing", "LUNG"), ("part_recovered", "LUNG")] == site.events


def test_a_platform_has_events_of_its_own(site: Site) -> None:
    """A failing platform is logged and recorded as `platform_down`. A slow call is logged as for any other part."""
    platform = Part(PartKind.PLATFORM, "clara")
    happened = []
    for finding in (OK, PartFinding(state=PartState.FAILING, reason="away"), SLOW, OK):
        site.found = {platform: finding, LUNG: OK}
        happened.append(site.examine())
    down, up = [("platform_down", "platform clara")], [("platform_up", "platform clara")]
    assert [[], down, up, [("part_recovered", "platform clara")]] == happened
    site.watch.write()
    assert [("platform_down", ""), ("platform_up", ""), ("part_recovered", "")] == site.events


def test_a_part_that_continues_slowly_after_a_hang_has_recovered(site: Site) -> None:
    """The part works again but is degraded. Later it is fully recovered.

    Verified to fail when only the second recovery is logged.
    """
    site.examine()
    assert [("part_hangs", "AE title LUNG")] == site.examine(HANGS)
    assert [("part_recovered", "AE title LUNG"), ("part_degraded", "AE title LUNG")] == site.examine(SLOW)
    assert [] == site.examine()
    assert [("part_recovered", "AE title LUNG")] == site.examine(OK)


def test_the_ledger_has_the_start_of_a_state_and_the_last_examination(site: Site) -> None:
    """`since` is when the state began. `seen_at` is the examination, so that a watch without examinations is noticed.

    Verified to fail when `seen_at` is the time of writing.
    """
    site.examine()
    site.examine(HANGS)
    since = site.clock.now()
    site.examine()
    seen_at = site.clock.now()
    site.clock.advance(60)
    site.watch.write()
    lane = site.written["AE title LUNG"]
    assert (
        PartHealth(part="AE title LUNG", state=HANGS.state, reason=HANGS.reason, since=since, seen_at=seen_at) == lane
    )


def test_changes_are_logged_at_once_and_written_when_the_ledger_works(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes that could not be written are written later, once, up to a limit.

    Verified to fail when changes are removed before they are written.
    """
    with monkeypatch.context() as broken:
        broken.setattr(site.ledger, "write", raise_ledger_full)
        assert [("part_hangs", "AE title LUNG")] == site.examine(HANGS)
        with pytest.raises(LedgerUnavailable):
            site.watch.write()
        assert [("part_recovered", "AE title LUNG")] == site.examine(OK)
    site.watch.write()
    site.watch.write()
    assert [("part_hangs", "LUNG"), ("part_recovered", "LUNG")] == site.events
    for _time in range(MAX_UNWRITTEN):
        site.examine(HANGS)
        site.examine(OK)
    site.watch.write()
    assert 2 + MAX_UNWRITTEN == len(site.events)


def raise_ledger_full(*_arguments: object) -> None:
    raise LedgerUnavailable("database or disk is full")


def test_an_orderly_stop_is_written_and_not_logged(site: Site) -> None:
    """The state of all rows is `stopped`, and no further examination takes place."""
    site.watch.start()
    with capture_logs() as logged:
        site.watch.close()
    assert [] == logged
    assert {"host": PartState.STOPPED, "AE title LUNG": PartState.STOPPED} == {
        name: part.state for name, part in site.written.items()
    }


def test_a_stop_without_the_ledger_does_not_fail(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has the reason why the rows are not updated."""
    site.watch.start()
    monkeypatch.setattr(site.ledger, "write", raise_ledger_full)
    with capture_logs() as logged:
        site.watch.close()
    assert "health_write_failed" in [entry["event"] for entry in logged]


def test_a_process_whose_log_misses_lines_is_degraded(site: Site) -> None:
    """`status` shows the problem, because the reader of the log is too slow. Other parts are not affected.

    Verified to fail when the problem of the log is ignored.
    """
    site.examine()
    site.log_problem = "3 lines of the log are missing"
    assert [("part_degraded", "host")] == site.examine()
    site.watch.write()
    assert (PartState.DEGRADED, site.log_problem) == (site.written["host"].state, site.written["host"].reason)
    assert PartState.OK is site.written["AE title LUNG"].state
    site.log_problem = ""
    assert [("part_recovered", "host")] == site.examine()
