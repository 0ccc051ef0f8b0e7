"""`dicom-adapter backup` and `dicom-adapter restore`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import evolve

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import DicomAdapterError, Refused
from dicom_adapter.cli.configuration import ConfigOption, find_file, open_service, read
from dicom_adapter.cli.messages import fail, log_to_stderr
from dicom_adapter.cli.progress import progress_bars
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.config.model import Config
from dicom_adapter.dicom.part10 import keep_values_out_of_warnings
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.operations.backup import Backup
from dicom_adapter.operations.backup_folder import Manifest, NotCopied
from dicom_adapter.operations.documents.moments import iso
from dicom_adapter.operations.restore import Restore, RestoreResult
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.ledger_lock import LedgerLock
from dicom_adapter.runtime.resources import Resources

INCOMPLETE_STATUS = 1  # exit status if some instances are missing in the backup, or could not be restored
FAILED_STATUS = 2  # exit status if no backup was made, or nothing was restored
SHOWN = 20  # number of instances without an object that the text shows; `--json` has all


def backup(
    destination: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new or empty folder for the backup.", show_default=False)
    ],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    utc: Utc = False,
) -> None:
    """Back up the ledger, the stored instances, the files of plugins and the configuration file.

    The service may be running. Everything that it acknowledged before the command began is in the backup.

    Exit status: 0 if the backup is complete; 1 if it was made without some instances, because their stored objects are
    missing or damaged, or because the host does not enter their rows; 2 if no backup was made.
    """
    with _exit_on_failure("no backup was made"):
        path = find_file(None, config)
        with progress_bars() as on_progress, _open(path) as (resources, configuration, text):
            work = Backup(resources, configuration.storage.path, text, on_progress=on_progress)
            manifest = work.run(destination)
    if as_json:
        typer.echo(json.dumps({"destination": str(destination), **_as_json(manifest)}, indent=2))
    else:
        typer.echo(f"backed up to {destination}: {_describe(manifest, Times.chosen(utc))}")
        _show(manifest.not_copied, "not in the backup")
        if manifest.not_entered:
            what = counted(manifest.not_entered, "acknowledged instance")
            typer.echo(
                f"  not in the backup: {what} without a row, because the host enters no rows: "
                "`dicom-adapter status` shows the cause; repeat the backup when the host works again"
            )
        typer.echo(f"\nTo restore it: dicom-adapter restore {destination} --config CONFIG")
    if manifest.not_copied or manifest.not_entered:
        raise typer.Exit(INCOMPLETE_STATUS)


def restore(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the backup.", show_default=False)],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    utc: Utc = False,
) -> None:
    """Restore a backup into the data folder and the ledger of a configuration, which must be new or empty.

    Exit status: 0 if everything was restored; 1 if it was restored without some instances, whose stored objects are
    missing or damaged in the backup; 2 if nothing was restored.
    """
    with _exit_on_failure("nothing was restored"):
        path = find_file(None, config)
        found = read(path)
        configuration = found.loaded.config
        if configuration is None:
            raise fail(*found.invalid)
        folder = DataFolder.of(configuration)
        catalogue = found.plugins.catalogue()
        with progress_bars() as on_progress:
            work = Restore(
                folder, lambda: folder.open_storage(configuration.storage, catalogue), SystemClock(), on_progress
            )
            result = work.run(source)
    if as_json:
        typer.echo(json.dumps(_result_as_json(result, folder.path), indent=2))
    else:
        restored = evolve(result.manifest, instances=result.instances)
        typer.echo(f"restored to {folder.path}: {_describe(restored, Times.chosen(utc))}")
        _show(result.not_restored, "not restored")
        typer.echo(f"\nTo start the service: dicom-adapter run {path}")
    if result.not_restored:
        raise typer.Exit(INCOMPLETE_STATUS)


@contextmanager
def _exit_on_failure(consequence: str) -> Iterator[None]:
    """End the command with FAILED_STATUS if the block fails or is interrupted."""
    keep_values_out_of_warnings()
    umask = os.umask(0o077)  # every file of a backup or a restore may hold patient data
    try:
        with log_to_stderr():
            yield
    except typer.Exit:
        raise typer.Exit(FAILED_STATUS) from None
    except KeyboardInterrupt:
        fail(f"interrupted; {consequence}")
        raise typer.Exit(FAILED_STATUS) from None
    except (OSError, DicomAdapterError) as failure:
        fail(f"{failure}; {consequence}")
        raise typer.Exit(FAILED_STATUS) from None
    finally:
        os.umask(umask)


@contextmanager
def _open(path: Path) -> Iterator[tuple[Resources, Config, str]]:
    """Open the ledger and the storage of a service. Yield them with its configuration, and the text of the file."""
    ledger, service = open_service(path)
    with closing(ledger):
        configuration = service.loaded.config
        assert configuration is not None  # `open_service` has checked it
        folder = DataFolder.of(configuration)
        folder.require_there()
        displaced = folder.displaced()
        if displaced:
            raise Refused(displaced)
        with closing(folder.open_storage(configuration.storage, service.plugins.catalogue())) as storage:
            resources = Resources(ledger=ledger, storage=storage, clock=SystemClock())
            _recover(folder, configuration, resources)
            yield resources, configuration, service.text


def _recover(folder: DataFolder, configuration: Config, resources: Resources) -> None:
    """Enter the rows that a power loss has erased. A running service has done this at its start."""
    if not resources.storage.keeps_recovery_records:
        return
    with folder.exclusive() as is_alone, LedgerLock(folder.ledger, folder.path).hold() as refusal:
        if is_alone and not refusal:
            Store(configuration, resources).recover()


# --- output ---------------------------------------------------------------------------------------------------------


def _describe(manifest: Manifest, times: Times) -> str:
    count = manifest.instances
    instances = f"{count:,} stored instance{'' if count == 1 else 's'} ({manifest.size_bytes / 1e6:,.1f} MB)"
    return f"{instances} and the ledger, as of {times.full(manifest.as_of)}"


def _show(missing: Sequence[NotCopied], what: str) -> None:
    for each in missing[:SHOWN]:
        typer.echo(f"  {what}: instance {each.instance_id} ({each.ae_title}): {each.reason}")
    if len(missing) > SHOWN:
        typer.echo(f"  … and {len(missing) - SHOWN} more")


def _as_json(manifest: Manifest) -> Mapping[str, Any]:
    return {
        "asOf": iso(manifest.as_of),
        "instances": manifest.instances,
        "bytes": manifest.size_bytes,
        "notCopied": _not_copied_as_json(manifest.not_copied),
        "notEntered": manifest.not_entered,
    }


def _result_as_json(result: RestoreResult, folder: Path) -> Mapping[str, Any]:
    return {
        "dataFolder": str(folder),
        "asOf": iso(result.manifest.as_of),
        "instances": result.instances,
        "notRestored": _not_copied_as_json(result.not_restored),
    }


def _not_copied_as_json(missing: Sequence[NotCopied]) -> list[Mapping[str, Any]]:
    return [{"instanceId": each.instance_id, "aeTitle": each.ae_title, "reason": each.reason} for each in missing]
