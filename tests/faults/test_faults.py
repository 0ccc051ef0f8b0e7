"""A short run of the fault harness; `make faults` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.campaign import Plan, run

pytestmark = pytest.mark.slow


@pytest.mark.timeout(240)  # on a machine that does much else; it takes half a minute
def test_nothing_acknowledged_is_lost_and_nothing_starts_twice(tmp_path: Path) -> None:
    """Killed and failed for some seconds, the adapter drains, and every count is right.

    Runs of the same harness failed with a C-STORE that was answered before its row was written (acknowledged), with
    jobs and releases committed one after the other (once), with objects that were reclaimed before their jobs were
    submitted (acknowledged), with an Idempotency-Key that the cache forgot (composed), and with a clean-up that took
    along what had come later (gone, refused).
    """
    report = run(Plan(folder=tmp_path / "run", seed="pytest", seconds=8, senders=2), tell=lambda _line: None)
    assert report.is_good, str(report)
    assert report.started_jobs > 0, str(report)
    assert report.kills, str(report)
