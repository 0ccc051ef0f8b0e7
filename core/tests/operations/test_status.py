"""`status`: state of the service, problems by name, and counts for each AE title."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from typer.testing import CliRunner

from dicom_adapter import Permanent, Retriable
from dicom_adapter.api.values import Capacity
from dicom_adapter.cli import app
from dicom_adapter.dicom.synthetic import make_instance, make_study
from dicom_adapter.ledger import Ledger, health, lanes
from dicom_adapter.ledger.health import PartHealth, PartState
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.operations.status import (
    LedgerStatus,
    Level,
    ServiceState,
    StorageStatus,
    assess,
    gather,
    service_state,
    worst_level,
)
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.testing import VirtualClock

CONFIGURATION = """
[submitters.platform]
type = "memory"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-a = "1", timeout = 60 }
[ae-titles.LIVER]
processor = "by-study"
settings = { pipeline-a = "1" }
"""
NOW = VirtualClock().now()
STORAGE = StorageStatus(capacity=None)

MakeAdapter = Callable[..., Any]


def part(name: str, state: PartState = PartState.OK, reason: str = "", age: float = 5) -> PartHealth:
    """Return the health of a part that was seen `age` seconds ago."""
    return PartHealth(part=name, state=state, reason=reason, since=NOW, seen_at=NOW - timedelta(seconds=age))


def facts(*parts: PartHealth) -> LedgerStatus:
    """Return the status from a ledger in which all processes are healthy, except for `parts`."""
    known = {name: part(name) for name in health.processes(1)} | {each.part: each for each in parts}
    return LedgerStatus(at=NOW, parts=known, ae_titles=(), jobs_without_submitter={})


STOPPED = part("service", PartState.STOPPED)


@pytest.mark.parametrize(
    ("status", "service_runs", "host_runs", "expected"),
    [
        (facts(), True, True, ServiceState.RUNNING),
        (facts(), True, False, ServiceState.RUNNING),  # the host is being restarted
        (facts(), False, True, ServiceState.CHANGING),  # the supervisor was killed: the host stops
        (facts(), False, False, ServiceState.NOT_RUNNING),  # the supervisor was killed: its row is recent
        (facts(part("service", age=31)), True, True, ServiceState.RUNNING),
        (facts(part("service", age=31)), False, False, ServiceState.NOT_RUNNING),
        (facts(STOPPED), True, True, ServiceState.CHANGING),
        (facts(STOPPED), False, False, ServiceState.NOT_RUNNING),
        (facts(), None, False, ServiceState.RUNNING),  # the disk of the data folder is not mounted
        (facts(part("service", age=31)), None, False, ServiceState.NOT_RUNNING),
        (facts(STOPPED), None, False, ServiceState.NOT_RUNNING),
        (LedgerStatus(at=NOW, parts={}, ae_titles=(), jobs_without_submitter={}), False, True, ServiceState.CHANGING),
        (
            LedgerStatus(at=NOW, parts={}, ae_titles=(), jobs_without_submitter={}),
            False,
            False,
            ServiceState.NOT_RUNNING,
        ),
    ],
)
def test_the_service_runs_while_its_supervisor_runs(
    status: LedgerStatus, service_runs: bool | None, host_runs: bool, expected: ServiceState
) -> None:
    """The locks of the processes count, not the age of their rows, unless the folder with the locks is missing.

    Before the first report, the service is starting.

    Verified to fail when a recent row means that the service runs.
    """
    assert expected is service_state(status, service_runs=service_runs, host_runs=host_runs)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], []),
        ([part("notify"), part("AE title LUNG")], []),
        ([part("receiver", age=31)], ["receiver: has not reported since 2026-01-05 07:59:29 UTC"]),
        ([part("receiver", PartState.STOPPED)], ["receiver: has not reported since 2026-01-05 07:59:55 UTC"]),
        ([part("service", PartState.FAILING, "the host died")], ["service: the host died"]),
        ([part("AE title LUNG", PartState.HANGS, "it hangs")], ["AE title LUNG: it hangs"]),
        ([part("observer x", PartState.FAILING, "it fails")], ["observer x: it fails"]),
        (  # the state of the parts is unknown if their host has ended
            [part("host", age=31), part("AE title LUNG", PartState.HANGS, "it hangs", age=31)],
            ["host: has not reported since 2026-01-05 07:59:29 UTC"],
        ),
    ],
)
def test_failed_parts_are_red_by_name(parts: list[PartHealth], expected: list[str], config: Any) -> None:
    """A part is red if it hangs or fails, a process if it was not seen for too long."""
    problems = assess(facts(*parts), ServiceState.RUNNING, STORAGE, config)
    assert expected == [f"{problem.part}: {problem.reason}" for problem in problems]
    assert worst_level(problems) is (Level.RED if expected else Level.GREEN)


@pytest.fixture
def config(make_adapter: MakeAdapter) -> Any:
    return make_adapter(CONFIGURATION).config


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        (STOPPED, "not running; it was stopped at 2026-01-05 08:00:00 UTC"),
        (
            part("service", age=31),
            "not running; it was not stopped in order, and last reported at 2026-01-05 07:59:29 UTC",
        ),
    ],
)
def test_a_stopped_service_is_reported_with_the_reason_of_its_end(
    service: PartHealth, reason: str, config: Any
) -> None:
    """The parts of the service, which cannot work, are not reported."""
    lane = part("AE title LUNG", PartState.HANGS, "it hangs")
    problems = assess(facts(service, lane), ServiceState.NOT_RUNNING, STORAGE, config)
    assert [(Level.RED, "service", reason)] == [(each.level, each.part, each.reason) for each in problems]


def test_storage_that_accepts_nothing_is_red(config: Any) -> None:
    """The reason names the setting. A storage backend whose capacity is unknown because of an error is red, too."""
    full = evolve(config, storage=evolve(config.storage, reserve=100))
    (problem,) = assess(
        facts(), ServiceState.RUNNING, StorageStatus(capacity=Capacity(total_bytes=1000, free_bytes=99)), full
    )
    assert (Level.RED, "storage", "storage has 99 bytes left, reserve = 100") == (
        problem.level,
        problem.part,
        problem.reason,
    )
    (problem,) = assess(facts(), ServiceState.RUNNING, StorageStatus(capacity=None, failure="OSError"), config)
    assert (Level.RED, "OSError") == (problem.level, problem.reason)


def problems_of(
    adapter: Any, *parts: PartHealth, config: Any = None, run: ServiceState = ServiceState.RUNNING
) -> list[tuple[str, str, str]]:
    """Return level, name and reason of all problems of an adapter whose processes are healthy, with these parts."""
    with adapter.ledger.read() as transaction:
        status = gather(transaction, config or adapter.config, adapter.clock.now())
    seen = [evolve(each, seen_at=adapter.clock.now()) for each in (*map(part, health.processes(1)), *parts)]
    problems = assess(evolve(status, parts={each.part: each for each in seen}), run, STORAGE, config or adapter.config)
    return [(each.level.value, each.part, each.reason) for each in problems]


def test_groups_instances_and_jobs_of_an_ae_title_are_counted(make_adapter: MakeAdapter) -> None:
    """Jobs are counted by state. A faulted job is a problem, because an operator must decide."""
    adapter = make_adapter(CONFIGURATION)
    adapter.platform.fail("create_job", Permanent("refused"))
    adapter.receive(make_instance(), ae_title="LIVER")
    adapter.advance(6)
    adapter.receive(make_instance(), make_instance(), ae_title="LUNG")
    with adapter.ledger.read() as transaction:
        status = gather(transaction, adapter.config, adapter.clock.now())
    lung, liver = status.ae_titles
    assert ("LUNG", "served", 2, 0, {}, None) == summary(lung)
    assert ("LIVER", "served", 0, 0, {"faulted": 1}, None) == summary(liver)
    assert liver.held_bytes.in_jobs > 0
    reason = "1 job faulted: `dicom-adapter jobs list --state faulted` shows why"
    assert [("yellow", "AE title LIVER", reason)] == problems_of(adapter)


def summary(status: Any) -> tuple[Any, ...]:
    counts = {state.value: count for state, count in status.jobs.items()}
    return status.ae_title, status.state, status.held.pending, status.held.quarantined, counts, status.oldest


def test_a_job_that_fails_for_a_minute_is_a_problem(make_adapter: MakeAdapter) -> None:
    """The problem has the reason. It is not repeated if the platform is down.

    Verified to fail when only platforms that are down are reported, so that other causes of failing jobs are silent,
    and when the problem is shown in addition to the platform.
    """
    adapter = make_adapter(CONFIGURATION)
    adapter.platform.fail("create_job", Retriable("down"), times=1000)
    adapter.receive(make_instance(), ae_title="LIVER")
    adapter.advance(5 + 59)
    assert [] == problems_of(adapter)
    adapter.advance(1)
    reason = "1 job failing since 2026-01-05 08:00:05 UTC: down; `dicom-adapter jobs list` shows more"
    assert [("yellow", "submitter platform", reason)] == problems_of(adapter)
    down = part("platform platform", PartState.FAILING, "it is down")
    assert [("red", "platform platform", "it is down")] == problems_of(adapter, down)


def test_the_oldest_unfinished_job_of_each_ae_title_is_named(make_adapter: MakeAdapter) -> None:
    """Finished jobs do not count."""
    adapter = make_adapter(CONFIGURATION)
    adapter.platform.fail("create_job", Retriable("down"), times=1000)
    for _study in range(2):
        adapter.receive(make_instance(), ae_title="LIVER")
        adapter.advance(6)
    with adapter.ledger.read() as transaction:
        by_ae_title = {each.ae_title: each for each in gather(transaction, adapter.config, NOW).ae_titles}
    assert {"queued": 2} == {state.value: count for state, count in by_ae_title["LIVER"].jobs.items()}
    assert adapter.jobs[0].job_id == by_ae_title["LIVER"].oldest.job_id


def test_a_lane_that_is_stopped_or_full_is_red_while_the_service_runs(make_adapter: MakeAdapter) -> None:
    """The problem has name and reason. The problem is not reported while the service is stopped."""
    adapter = make_adapter(CONFIGURATION)
    with adapter.ledger.write() as transaction:
        lanes.save(transaction, LaneReport(ae_title="LUNG", state=LaneState.STOPPED, reason="it failed", since=NOW))
        lanes.set_full(transaction, "LIVER", "it is full")
    assert [("red", "AE title LUNG", "it failed"), ("red", "AE title LIVER", "it is full")] == problems_of(adapter)
    assert ["service"] == [name for _level, name, _reason in problems_of(adapter, run=ServiceState.NOT_RUNNING)]
    with adapter.ledger.write() as transaction:
        lanes.save(transaction, LaneReport(ae_title="LUNG", state=LaneState.RUNNING, reason="it waits", since=NOW))
    assert ("red", "AE title LUNG", "it waits") == problems_of(adapter)[0]


def test_instances_and_jobs_that_are_no_longer_configured_are_listed(make_adapter: MakeAdapter) -> None:
    """Instances of a removed AE title and jobs of a removed submitter are held.

    Verified to fail when only the configured AE titles are shown.
    """
    adapter = make_adapter(CONFIGURATION)
    adapter.platform.fail("create_job", Retriable("down"), times=1000)
    adapter.receive(make_instance(), make_instance(), ae_title="LUNG")
    adapter.receive(make_instance(), ae_title="LIVER")
    adapter.advance(6)
    others = {"OTHER": adapter.config.ae_titles["LUNG"]}
    config = evolve(adapter.config, ae_titles=others, submitters={"new": adapter.config.submitters["platform"]})
    assert [
        ("yellow", "AE title LIVER", "not configured: 0 instances and 1 unfinished job held"),
        ("yellow", "AE title LUNG", "not configured: 2 instances and 0 unfinished jobs held"),
        ("yellow", "submitter platform", "not configured: 1 unfinished job held"),
    ] == problems_of(adapter, config=config)
    away = evolve(adapter.config.submitters["platform"], unavailable="a plugin")
    config = evolve(adapter.config, submitters={"platform": away})
    assert ("yellow", "submitter platform", "needs a plugin: 1 unfinished job held") in problems_of(
        adapter, config=config
    )


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(make_adapter: MakeAdapter, tmp_path: Path) -> Path:
    """The configuration of a service that has just stopped, with three instances at LUNG."""
    storage = '[storage]\npath = "data"\nwatermark-percent = 100\nreserve = 0\n'
    adapter = make_adapter(CONFIGURATION + storage)
    adapter.receive(*make_study(instances=3), ae_title="LUNG")
    adapter.advance(1)  # so that the lane has saved its groups
    file = tmp_path / "adapter.toml"
    file.write_text(CONFIGURATION + storage, encoding="utf-8")
    report_states(tmp_path, dict.fromkeys(health.processes(1), PartState.STOPPED))
    return file


def report_states(folder: Path, states: Mapping[str, PartState], now: datetime | None = None) -> None:
    """Enter states of parts or processes into the ledger, as if they had just been reported."""
    seen = now or SystemClock().now()
    ledger = Ledger(f"sqlite:///{folder / 'data' / 'ledger.sqlite'}")
    with ledger.write() as transaction:
        health.save(
            transaction,
            [PartHealth(part=name, state=state, since=seen, seen_at=seen) for name, state in states.items()],
        )
    ledger.close()


def test_a_report_from_the_future_does_not_count(service: Path) -> None:
    """The system clock was put back after the report.

    Otherwise, a process that has died would not be reported for that time.

    Verified to fail when only old reports are stale.
    """
    states = dict.fromkeys(health.processes(1), PartState.OK)
    report_states(service.parent, states, SystemClock().now() + timedelta(hours=1))
    with running(service):
        assert 1 == run("--config", service).exit_code


def running(service: Path) -> AbstractContextManager[None]:
    """Hold the lock of a supervisor."""
    return DataFolder(service.parent / "data").as_service()


def run(*arguments: object, columns: int = 80) -> Any:
    return CliRunner().invoke(app, ["status", *map(str, arguments)], env={"COLUMNS": str(columns)})


def test_the_exit_status_depends_on_the_health(service: Path) -> None:
    """3: the service does not run; 0: its health is green; 1: its health is red, or there is no ledger."""
    assert 3 == run("--config", service).exit_code
    report_states(service.parent, dict.fromkeys(health.processes(1), PartState.OK))
    assert 3 == run("--config", service).exit_code
    with running(service):
        assert 0 == run("--config", service).exit_code
        report_states(service.parent, {"AE title LUNG": PartState.HANGS})
        assert 1 == run("--config", service).exit_code
    (service.parent / "data" / "ledger.sqlite").unlink()
    assert 1 == run("--config", service).exit_code


def test_the_output_fits_80_columns(service: Path) -> None:
    """The output begins with the health and its reasons. Service, storage and each AE title follow."""
    report_states(service.parent, dict.fromkeys(health.processes(1), PartState.OK))
    with running(service):
        shown = run("--config", service).stdout.splitlines()
    assert all(len(line) <= 80 for line in shown)
    assert "health            green" == shown[0]
    lung = shown.index("LUNG              served")
    assert [
        "                  1 waiting group with 3 instances; the next is due at",
        "                  2026-01-05 08:01:00 UTC",
        "                  3 instances pending, 0 quarantined (0 bytes)",
        "                  jobs: none",
    ] == shown[lung + 1 : lung + 5]


def test_json_has_the_same_information(service: Path) -> None:
    """The names of the members are stable."""
    status = json.loads(run("--config", service, "--json").stdout)
    assert ("red", "not running") == (status["health"], status["service"])
    assert ["service"] == [problem["part"] for problem in status["problems"]]
    (lung,) = [each for each in status["aeTitles"] if each["aeTitle"] == "LUNG"]
    assert {
        "aeTitle": "LUNG",
        "state": "not served",
        "reason": "",
        "groups": 1,
        "nextDueAt": "2026-01-05T08:01:00.000+00:00",
        "pending": 3,
        "quarantined": 0,
        "quarantinedResults": 0,
        "quarantinedBytes": 0,
        "faultedBytes": 0,
        "duplicates": {"dropped": 0, "quarantined": 0},
        "jobs": {},
        "oldestUnfinishedJob": None,
    } == lung
