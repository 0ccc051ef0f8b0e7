"""`dicom-adapter status`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import StorageUnavailable, describe_failure
from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.api.values import Job
from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, config_option, find_file, open_service
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.cli.wrapping import MARGIN, width, with_options, wrap
from dicom_adapter.config.model import Config
from dicom_adapter.flow.acceptance import measure_space
from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.configurations import ConfigurationState
from dicom_adapter.ledger.jobs import is_on_platform
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.operations.documents.status import status_as_json
from dicom_adapter.operations.not_entered import Backlog
from dicom_adapter.operations.senders import describe, name_of
from dicom_adapter.operations.status import (
    AeTitleStatus,
    LedgerStatus,
    Level,
    ServiceState,
    StorageStatus,
    assess,
    gather,
    service_state,
)
from dicom_adapter.operations.status_report import StatusReport
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder

MOST_REJECTED = 3  # number of rejected senders that are shown
NOT_RUNNING_STATUS = 3  # as in the Linux Standard Base; 2 is for usage errors
COLOURS = {Level.GREEN: typer.colors.GREEN, Level.YELLOW: typer.colors.YELLOW, Level.RED: typer.colors.RED}
UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def status(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    utc: Utc = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of text.")] = False,
) -> None:
    """Show whether the service runs and works, and the instances and jobs of each AE title.

    Exit status: 0 if the health is green or yellow; 1 if it is red or cannot be read; 3 if the service is not running.
    """
    report = _examine(find_file(file, config))
    if as_json:
        typer.echo(json.dumps(status_as_json(report), indent=2))
    else:
        _show(report, Times.chosen(utc), config_option(file or config))
    if report.service is ServiceState.NOT_RUNNING:
        raise typer.Exit(NOT_RUNNING_STATUS)
    if report.level is Level.RED:
        raise typer.Exit(1)


def _examine(path: Path) -> StatusReport:
    ledger, found = open_service(path)
    config = found.loaded.config
    assert config is not None  # `open_service` has checked it
    folder = DataFolder.of(config)
    host_runs = folder.has_host or bool(folder.displaced())  # the folder of a running service may have been replaced
    service_runs = None if folder.is_missing else folder.has_service or bool(folder.displaced())
    with ledger.read() as transaction:
        facts = gather(transaction, config, SystemClock().now())
    storage = _storage_status(config, found.plugins.catalogue(), ledger)
    ledger.close()
    service = service_state(facts, service_runs=service_runs, host_runs=host_runs)
    problems = assess(facts, service, storage, config)
    return StatusReport(config=config, facts=facts, service=service, storage=storage, problems=problems)


def _storage_status(config: Config, catalogue: Catalogue, ledger: Ledger) -> StorageStatus:
    folder = DataFolder.of(config)
    try:
        folder.require_there()
    except (StorageUnavailable, OSError) as failure:
        return StorageStatus(capacity=None, failure=str(failure))
    displaced = folder.displaced()
    if displaced:
        return StorageStatus(capacity=None, failure=displaced)
    try:
        storage = folder.open_storage(config.storage, catalogue)
        try:
            return StorageStatus.of(measure_space(storage, ledger, lambda: ""))
        finally:
            storage.close()
    except (Exception, SystemExit) as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
        return StorageStatus(capacity=None, failure=f"its free space is unknown: {describe_failure(failure)}")


# --- text -----------------------------------------------------------------------------------------------------------


def _show(report: StatusReport, times: Times, options: str) -> None:
    write = partial(_print, times, options)
    write("health", report.level.value, colour=COLOURS[report.level])
    for problem in report.problems:
        write("", f"{problem.part}: {problem.reason}", colour=COLOURS[problem.level])
    write("service", _service(report))
    if report.pids:
        write("processes", ", ".join(f"{name} (PID {pid})" for name, pid in report.pids.items()))
    write("configuration", _configuration(report.facts))
    write("storage", _storage(report))
    if report.facts.backlog.oldest_at is not None:
        write("not entered", _backlog(report.facts.backlog, report.facts.backlog.oldest_at))
    for number, one in enumerate(report.facts.waiting_jobs):
        verb = "waits" if one.count == 1 else "wait"
        write("" if number else "waiting", f"{counted(one.count, 'job')} {verb}: {one.reason}")
    for number, line in enumerate(_rejected(report.facts)):
        write("" if number else "rejected", line)
    for ae_title in report.facts.ae_titles:
        typer.echo()
        for number, line in enumerate([report.state_of(ae_title), *_contents(ae_title)]):
            write("" if number else ae_title.ae_title, line)


def _print(times: Times, options: str, title: str, text: str, *, colour: str | None = None) -> None:
    """Print a title in the left column and a text in the right column. Ids and commands in the text are not broken.

    UTC times in the text are converted with `times`. `options`: options to add to the commands in the text.
    """
    lines = wrap(with_options(times.in_text(text), options), width() - MARGIN)
    for number, line in enumerate(lines):
        typer.echo(f"{'' if number else title:{MARGIN}}{typer.style(line, fg=colour)}")


def _service(report: StatusReport) -> str:
    parts = report.facts.parts
    if report.service is not ServiceState.RUNNING or "service" not in parts:
        return report.service.value
    return f"{report.service.value}; last report at {_time(parts['service'].seen_at)}"


def _configuration(facts: LedgerStatus) -> str:
    """Describe the running configuration, and the result of the last requested configuration."""
    running, newest = facts.running, facts.newest
    if running is None or newest is None:
        return "not known yet"
    since = f"number {running.number}, since {_time(running.changed_at)}" + (running.reason and f"; {running.reason}")
    if newest.state is ConfigurationState.REQUESTED:
        return f"{since}; number {newest.number} is being applied"
    if newest.state is ConfigurationState.REFUSED:
        return f"{since}; number {newest.number} was refused at {_time(newest.changed_at)}: {newest.reason}"
    return since


def _rejected(facts: LedgerStatus) -> Iterator[str]:
    """Yield the senders that were rejected last, within the last 24 hours."""
    for one in facts.rejected[:MOST_REJECTED]:
        name = name_of(one.calling_ae_title, [one.peer_address] if one.peer_address else [])
        yield f"{name}: {describe(one)}; last at {_time(one.last_at)}"
    if len(facts.rejected) > MOST_REJECTED:
        yield f"{len(facts.rejected) - MOST_REJECTED} more: `dicom-adapter senders` shows them"
    elif facts.rejected:
        yield "`dicom-adapter senders` shows what to do"


def _storage(report: StatusReport) -> str:
    settings, capacity = report.config.storage, report.storage.capacity
    if capacity is None:
        return report.storage.failure or "no limit known"
    used = f", {100 * (1 - capacity.free_bytes / capacity.total_bytes):.0f} % used" if capacity.total_bytes else ""
    free = f"{_size(capacity.free_bytes)} of {_size(capacity.total_bytes)} free{used}"
    limits = f"at {settings.watermark_percent} % used, or with less than {_size(settings.reserve)} free"
    return f"{free}; associations are rejected {limits}"


def _backlog(backlog: Backlog, oldest_at: datetime) -> str:
    count = counted(backlog.count, "stored instance")
    return f"{count} without a row in the ledger yet; the oldest was stored at {_time(oldest_at)}"


def _contents(status: AeTitleStatus) -> Iterator[str]:
    if status.lane is not None:
        yield _waiting(status.lane)
    held = status.held
    results = f", {counted(held.results, 'result')} among them" if held.results else ""
    quarantined = f"{held.quarantined + held.results} quarantined ({_size(status.held_bytes.quarantined)}{results})"
    yield f"{counted(status.held.pending, 'instance')} pending, {quarantined}"
    duplicates = status.duplicates
    if duplicates.dropped or duplicates.quarantined:
        yield f"duplicates received: {duplicates.dropped} dropped (same data set), {duplicates.quarantined} quarantined"
    counts = ", ".join(f"{count} {state.value}" for state, count in status.jobs.items())
    yield f"jobs: {counts or 'none'}"
    if status.oldest is not None:
        job = status.oldest
        yield f"oldest unfinished job: {job.job_id[:8]} ({_state_of(job)}), created at {_time(job.created_at)}"


def _state_of(job: Job) -> str:
    """Return the state of a job. Add what the platform reports of a started job, for example a wait for a GPU."""
    if not is_on_platform(job) or job.platform_state in ("", job.state.value):
        return job.state.value
    detail = f", {job.platform_detail}" if job.platform_detail else ""
    return f"{job.state.value}; the platform reports: {job.platform_state}{detail}"


def _waiting(lane: LaneReport) -> str:
    if not lane.groups:
        return "no waiting groups"
    more = "" if lane.groups == len(lane.waiting) else "more than "
    count = counted(sum(group.instance_count for group in lane.waiting), "instance")
    due = lane.waiting[0].until if lane.waiting else None
    when = f"the next is due at {_time(due)}" if due else "no due time"
    return f"{counted(lane.groups, 'waiting group')} with {more}{count}; {when}"


def _size(count: int) -> str:
    return next((f"{count / unit:.1f} {name}" for unit, name in UNITS if count >= unit), f"{count} bytes")


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
