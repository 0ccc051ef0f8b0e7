"""Watching parts: what hangs or keeps failing is told by name, and so is its recovery; a ledger delays no look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.ledger import Ledger, events, health
from dicom_adapter.ledger.health import PartHealth, PartState
from dicom_adapter.runtime.parts import Part, PartKind, lane_part, process_part
from dicom_adapter.runtime.watch import CHANGES_KEPT, EXAMINE_EVERY, PartFinding, Watch, examine
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
    """A watch over parts that a test changes."""

    def __init__(self, ledger: Ledger) -> None:
        self.clock = VirtualClock()
        self.ledger = ledger
        self.found: Mapping[Part, PartFinding] = {process_part("host"): OK, LUNG: OK}
        self.watch = Watch(lambda: self.found, ledger, self.clock)

    def look(self, lung: PartFinding | None = None) -> list[Any]:
        """A second later, examine the parts; return the events and parts that were logged. `lung`: a new finding."""
        self.clock.advance(1)
        self.found = {**self.found, LUNG: lung or self.found[LUNG]}
        with capture_logs() as told:
            self.watch.examine()
        return [(entry["event"], entry["part"]) for entry in told]

    @property
    def written(self) -> dict[str, PartHealth]:
        with self.ledger.read() as transaction:
            return health.load(transaction)

    @property
    def events(self) -> list[tuple[str, str]]:
        with self.ledger.read() as transaction:
            return [(event.event, event.ae_title) for _number, event in events.after(transaction, 0, 1000)]


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
    """The deadline is that of its kind, whatever its name is."""
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
def test_a_part_is_as_the_worst_of_its_workers(conditions: list[Condition], finding: PartFinding) -> None:
    """It hangs when a step takes longer than its deadline, and fails after three failures in a row."""
    assert finding == examine(LUNG, conditions)


def test_a_processor_that_hangs_is_told_of_within_half_a_minute() -> None:
    """Also when its turn begins late in a step, right after a look. Tried: a deadline of 30 s is told of after it."""
    turn_began_s = SLICE_SECONDS
    last_look_s = turn_began_s + 30 - EXAMINE_EVERY.total_seconds()
    condition = Condition(busy_since=NOW, busy_seconds=last_look_s)
    assert PartState.HANGS is examine(LUNG, [condition]).state


def test_changes_are_told_once_by_name(site: Site) -> None:
    """A part that begins well is no news; one that hangs, fails, and recovers is, each time once."""
    failing = PartFinding(state=PartState.FAILING, reason="failed 3 times in a row: OSError")
    still_failing = PartFinding(state=PartState.FAILING, reason="failed 4 times in a row: OSError")
    assert [] == site.look()
    assert [("part_hangs", "AE title LUNG")] == site.look(HANGS)
    assert [] == site.look()
    assert [("part_failing", "AE title LUNG")] == site.look(failing)
    assert [] == site.look(still_failing)
    assert [("part_recovered", "AE title LUNG")] == site.look(OK)
    site.watch.write()
    assert [("part_hangs", "LUNG"), ("part_failing", "LUNG"), ("part_recovered", "LUNG")] == site.events


def test_a_part_that_hung_and_goes_on_is_told_of_though_it_was_slow(site: Site) -> None:
    """It works again, and somebody should look; later it is well. Tried: only the second."""
    site.look()
    assert [("part_hangs", "AE title LUNG")] == site.look(HANGS)
    assert [("part_recovered", "AE title LUNG"), ("part_degraded", "AE title LUNG")] == site.look(SLOW)
    assert [] == site.look()
    assert [("part_recovered", "AE title LUNG")] == site.look(OK)


def test_the_ledger_has_the_state_since_when_and_the_last_look(site: Site) -> None:
    """`since` stays with the state; `seen_at` is the look, not the writing, so that a watch that looks no more shows.

    Tried: the time of the writing for `seen_at`.
    """
    site.look()
    site.look(HANGS)
    since = site.clock.now()
    site.look()
    seen_at = site.clock.now()
    site.clock.advance(60)
    site.watch.write()
    lane = site.written["AE title LUNG"]
    assert (
        PartHealth(part="AE title LUNG", state=HANGS.state, reason=HANGS.reason, since=since, seen_at=seen_at) == lane
    )


def test_a_ledger_that_fails_delays_no_look_and_hears_of_it_later(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has it at once. What the ledger missed is written when it is back, once, and not more than it should.

    Tried: forgetting changes before they are written.
    """
    with monkeypatch.context() as broken:
        broken.setattr(site.ledger, "write", failing)
        assert [("part_hangs", "AE title LUNG")] == site.look(HANGS)
        with pytest.raises(LedgerUnavailable):
            site.watch.write()
        assert [("part_recovered", "AE title LUNG")] == site.look(OK)
    site.watch.write()
    site.watch.write()
    assert [("part_hangs", "LUNG"), ("part_recovered", "LUNG")] == site.events
    for _time in range(CHANGES_KEPT):
        site.look(HANGS)
        site.look(OK)
    site.watch.write()
    assert 2 + CHANGES_KEPT == len(site.events)


def failing(*_arguments: object) -> None:
    raise LedgerUnavailable("database or disk is full")


def test_an_orderly_end_is_no_silence(site: Site) -> None:
    """All its rows say that it was stopped; nothing is told, and nothing looks any more."""
    site.watch.start()
    with capture_logs() as told:
        site.watch.close()
    assert [] == told
    assert {"host": PartState.STOPPED, "AE title LUNG": PartState.STOPPED} == {
        name: part.state for name, part in site.written.items()
    }


def test_an_end_without_the_ledger_is_an_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says why the rows do not."""
    site.watch.start()
    monkeypatch.setattr(site.ledger, "write", failing)
    with capture_logs() as told:
        site.watch.close()
    assert "health_write_failed" in [entry["event"] for entry in told]
