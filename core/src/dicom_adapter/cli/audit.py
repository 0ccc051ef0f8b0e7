"""`dicom-adapter audit`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_adapter.api.errors import DicomAdapterError
from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, find_file, open_service, require_valid
from dicom_adapter.cli.messages import fail, log_to_stderr
from dicom_adapter.cli.progress import progress_bars
from dicom_adapter.config.model import Config
from dicom_adapter.dicom.part10 import keep_values_out_of_warnings
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger.balance import Account
from dicom_adapter.operations.audit import Audit, AuditReport, Kind
from dicom_adapter.operations.not_entered import not_entered
from dicom_adapter.operations.repair import Repair, RepairResult
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder, with_pids
from dicom_adapter.runtime.ledger_lock import LedgerLock
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.storage_generation import StorageGeneration

FAILED_STATUS = 2  # exit status if the audit could not be made
AT_START = ": the service enters their rows when it starts"
SHOWN = 20  # number of findings of each kind that the text shows; `--json` has more

MEANING = {
    Kind.ORPHAN: "Stored objects that belong to no instance",
    Kind.MISSING: "Instances without their stored objects",
    Kind.CHANGED: "Stored objects that differ from the received data sets",
    Kind.UNREADABLE: "Stored objects that cannot be read",
    Kind.NOT_DELETED: "Reclaimed instances whose stored objects still exist",
    Kind.UNFINISHED: "Released instances whose objects are deleted, but that are not marked as reclaimed",
    Kind.OVERDUE: "Instances that are no longer needed, but not reclaimed",
    Kind.INCOMPLETE: "Jobs without all their instances",
    Kind.WITHOUT_DATA: "Jobs that need reclaimed instances",
    Kind.REPLACEMENT_MISSING: "Instances whose replacements do not exist",
    Kind.BALANCE: "Instances that are not accounted for",
    Kind.DISPLACED: "The service writes to files that were moved, replaced or deleted",
}


def audit(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also read every stored object and compare its checksum.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what is safe to repair. The service must be stopped.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Compare ledger and storage, and account for every received instance. The service may be running.

    Exit status: 0 if there is no problem, or all problems were repaired; 1 if there are problems; 2 if the audit could
    not be made.
    """
    keep_values_out_of_warnings()
    try:
        path = find_file(file, config)
    except typer.Exit:
        raise typer.Exit(FAILED_STATUS) from None
    try:
        with log_to_stderr():
            report, repairs = _run_audit(path, verify=verify, repair=repair)
    except (OSError, DicomAdapterError) as failure:
        fail(f"the audit failed: {failure}")
        raise typer.Exit(FAILED_STATUS) from None
    if as_json:
        typer.echo(json.dumps(_as_json(report, repairs), indent=2))
    else:
        _print(report, repairs)
    if report.count > sum(each.repaired for each in repairs):
        raise typer.Exit(1)


def _run_audit(path: Path, *, verify: bool, repair: bool) -> tuple[AuditReport, list[RepairResult]]:
    with _open(path, is_strict=repair) as (resources, configuration), progress_bars() as on_progress:
        folder = DataFolder.of(configuration)
        find_not_entered = partial(not_entered, folder.path, resources.storage, resources.ledger)
        if not repair:
            audit = Audit(
                resources,
                is_running=lambda: folder.is_used,
                displaced=folder.displaced,
                find_not_entered=find_not_entered,
                verify=verify,
                on_progress=on_progress,
            )
            return audit.run(), []
        displaced = folder.displaced()
        if displaced:
            fail(displaced)
            raise typer.Exit(FAILED_STATUS)
        with folder.exclusive() as got_lock, LedgerLock(folder.ledger, folder.path).hold() as refusal:
            if not got_lock:
                user = with_pids("the service or another repair", folder.user_pids)
                fail(f"{user} is using {folder.path}: stop the service first, or wait until the repair has ended")
                raise typer.Exit(FAILED_STATUS)
            if refusal:
                fail(f"{refusal}: stop it first")
                raise typer.Exit(FAILED_STATUS)
            Store(configuration, resources).recover()  # as at a start of the service
            audit = Audit(
                resources,
                is_running=lambda: False,
                find_not_entered=find_not_entered,  # instances whose rows `recover` could not enter
                verify=verify,
                on_progress=on_progress,
            )
            report = audit.run()
            repairs = list(Repair(resources).run(report))
            marker = folder.prepare()
            # The ledger and the storage record the next generation: from now on, they belong together.
            StorageGeneration(marker, resources.ledger, resources.clock, folder.is_durable).advance()
            return report, repairs


@contextmanager
def _open(path: Path, *, is_strict: bool) -> Iterator[tuple[Resources, Config]]:
    """Open the ledger and the storage of a service, and yield them with its configuration.

    Ends the command if there is no ledger, or if the file is not valid and `is_strict`.
    """
    try:
        if is_strict:
            require_valid(path)
        ledger, service = open_service(path)
    except typer.Exit:
        raise typer.Exit(FAILED_STATUS) from None
    config = service.loaded.config
    assert config is not None  # `open_service` has checked it
    folder = DataFolder.of(config)
    folder.require_there()
    storage = folder.open_storage(config.storage, service.plugins.catalogue())
    try:
        yield Resources(ledger=ledger, storage=storage, clock=SystemClock()), config
    finally:
        storage.close()
        ledger.close()


def _print(report: AuditReport, repairs: list[RepairResult]) -> None:
    _print_accounts(report)
    for kind, found in report.found.items():
        typer.echo(f"\n{MEANING[kind]}: {found.count}")
        for finding in found.listed[:SHOWN]:
            typer.echo(f"  {finding.text}")
        if found.count > SHOWN:
            typer.echo(f"  … and {found.count - SHOWN} more")
    if repairs:
        typer.echo("\nRepair")
    for each in repairs:
        typer.echo(f"  {'repaired' if each.repaired else 'not repaired'}: {each.text}")
    if not report.count:
        typer.echo("\nNo problems found.")
    elif report.running:
        typer.echo(
            "\nThe service was running: instances that it was just storing or reclaiming may be among the findings."
        )
        typer.echo("Run the audit again to be sure, or stop the service first.")


def _print_accounts(report: AuditReport) -> None:
    for account in report.balance:
        typer.echo(_equation(account, "received"))
    for account in report.results:
        typer.echo(_equation(account, "results"))
    for ae_title, count in sorted(report.not_entered.items()):
        typer.echo(f"{ae_title}: {count} stored, not yet entered in the ledger{'' if report.running else AT_START}")


def _equation(account: Account, total_name: str) -> str:
    """Return for example `LUNG: 5 received = 3 pending + 2 reclaimed (submitted)`."""
    released = {
        "needed by unfinished jobs": account.unfinished,
        "needed by faulted and failed jobs": account.held,
        "about to be reclaimed": account.free,
    }
    parts = {
        "pending": account.pending,
        "quarantined": account.quarantined,
        **{f"released ({what})": count for what, count in released.items()},
        **{f"reclaimed ({outcome.value})": count for outcome, count in account.reclaimed.items()},
    }
    sum_of_parts = " + ".join(f"{count} {what}" for what, count in parts.items() if count)
    sign = "≠" if account.difference else "="
    return f"{account.ae_title}: {account.received} {total_name} {sign} {sum_of_parts or 0}"


def _as_json(report: AuditReport, repairs: list[RepairResult]) -> Mapping[str, Any]:
    return {
        "ok": report.count == sum(each.repaired for each in repairs),
        "running": report.running,
        "balance": [_account_as_json(account, "received") for account in report.balance],
        "results": [_account_as_json(account, "results") for account in report.results],
        "notEntered": dict(sorted(report.not_entered.items())),
        "counts": {kind.value: found.count for kind, found in report.found.items()},
        "findings": [
            {
                "kind": finding.kind.value,
                "text": finding.text,
                "aeTitle": finding.ae_title,
                "instanceId": finding.instance_id,
                "jobId": finding.job_id,
                "storageKey": finding.storage_key,
            }
            for found in report.found.values()
            for finding in found.listed
        ],
        "repair": [{"repaired": each.repaired, "text": each.text} for each in repairs],
    }


def _account_as_json(account: Account, total_name: str) -> Mapping[str, Any]:
    return {
        "aeTitle": account.ae_title,
        total_name: account.received,
        "pending": account.pending,
        "quarantined": account.quarantined,
        "released": {"unfinished": account.unfinished, "faulted": account.held, "free": account.free},
        "reclaimed": {outcome.value: count for outcome, count in account.reclaimed.items()},
        "difference": account.difference,
    }
