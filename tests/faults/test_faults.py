"""A short run of the fault harness; `make faults` starts a long run."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.campaign import Plan, run

pytestmark = pytest.mark.slow


@pytest.mark.timeout(240)  # on a slow machine; usually the run takes half a minute
def test_nothing_acknowledged_is_lost_and_nothing_starts_twice(tmp_path: Path) -> None:
    """After some seconds of kills and faults the adapter drains, and the count has no finding.

    Verified to fail when one of these bugs is in the adapter; the findings are in parentheses:

    - jobs and releases are committed separately (once)
    - objects are reclaimed before their jobs are submitted (acknowledged)
    - the cache forgets an Idempotency-Key (composed)
    - a clean-up deletes instances that arrived later (gone, refused)
    - only the first result of a job is delivered (results; in a longer run)
    - `dicom` reports an instance as delivered although the association was rejected or lost (arrived; in a run of a
      minute)
    """
    report = run(Plan(folder=tmp_path / "run", seed="pytest", seconds=8, senders=2), report_progress=lambda _line: None)
    assert report.is_good, str(report)
    assert report.started_jobs > 0, str(report)
    assert report.kills, str(report)
