"""`dicom-adapter run`."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from dicom_adapter.api.errors import StorageUnavailable, reports_no_free_space
from dicom_adapter.cli import core_dumps, early_signals
from dicom_adapter.cli.configuration import CheckedConfiguration, ConfigArgument, ConfigOption, find_file, read
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.config.model import Config
from dicom_adapter.plugins.registry import STORAGE
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.ledger_lock import LedgerLock
from dicom_adapter.service.blueprint import Blueprint
from dicom_adapter.service.reload.take_snapshot import snapshot

SERVICE_MODULE = "dicom_adapter.service"


def run(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Do not start if a plugin is broken or missing.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65535,
            help="Listen on this port instead of the configured port; 0: any free port.",
        ),
    ] = None,
    trace_hooks: Annotated[
        bool,
        typer.Option("--trace-hooks", help="Log every call of a plugin, with its duration and result."),
    ] = False,
    new: Annotated[
        bool,
        typer.Option("--new", help="Begin a new storage in `storage.path`, although it may be a disk that is missing."),
    ] = False,
    stop_with_stdin: Annotated[
        bool,
        typer.Option(
            "--stop-with-stdin", help="Also stop when standard input closes, that is, when the parent process exits."
        ),
    ] = False,
) -> None:
    """Run the service until SIGTERM or Ctrl-C. After SIGHUP it applies the changed file, as `reload --apply` does.

    AE titles whose plugins are missing or broken reject associations; other AE titles are served. Logs go to stderr.
    Exit status: 0 after an orderly stop, 1 if the service cannot start.
    """
    path = find_file(file, config)
    found = read(path)
    if found.loaded.config is None:
        raise fail(*(f"{path}: {problem}" for problem in found.invalid))
    unavailable = [f"{path}: {problem}" for problem in found.unavailable]
    if unavailable and strict:
        raise fail(*unavailable, "not started, because of --strict")
    warn(*unavailable)
    if found.loaded.config.log.core_dumps:
        core_dumps.enable()
    _prepare_storage(found.loaded.config, is_new=new)
    _become_the_service(_blueprint(found, path, port, trace_hooks=trace_hooks, stop_with_stdin=stop_with_stdin))


def _prepare_storage(config: Config, *, is_new: bool) -> None:
    """Begin the storage if it is new. Ends the command with status 1 if the storage may be missing."""
    try:
        DataFolder.of(config).prepare(is_new=is_new)
    except StorageUnavailable as failure:
        raise fail(_ledger_user(config) or str(failure)) from None
    except OSError as failure:
        if is_new or not reports_no_free_space(failure):  # else the service waits for free space
            raise fail(f"the data folder {config.storage.path} cannot be created: {failure.strerror}") from None


def _ledger_user(config: Config) -> str:
    """Return which other service uses the ledger, and the next step; "" if no other service uses the ledger."""
    folder = DataFolder.of(config)
    try:
        refusal = LedgerLock(folder.ledger, folder.path).refusal()
    except OSError:
        return ""
    return refusal and f"{refusal}; give each service a ledger of its own with `[ledger] url`"


def _become_the_service(blueprint: Blueprint) -> None:
    """Replace this process, which loaded plugins to check the configuration, with the service process.

    The service process has not loaded any plugin yet. The PID stays the same.

    The configuration is passed in memory: it may contain secrets, and the disk may be full.
    """
    with os.fdopen(os.memfd_create("blueprint", flags=0), "w", encoding="utf-8") as file:
        json.dump(blueprint.to_json(), file)
        file.flush()
        early_signals.hold()
        command = [sys.executable, "-m", SERVICE_MODULE, str(file.fileno())]
        os.execv(sys.executable, command)  # noqa: S606 - our own module


def _blueprint(
    found: CheckedConfiguration, path: Path, port: int | None, *, trace_hooks: bool, stop_with_stdin: bool
) -> Blueprint:
    config = found.loaded.config
    assert config is not None  # the caller has checked this
    provider = found.plugins.provider(STORAGE, config.storage.backend)
    assert provider is not None  # a missing storage backend makes the configuration invalid
    return Blueprint(
        path=str(path.resolve()),
        configuration=found.text,
        folder=str(path.resolve().parent),
        settings=snapshot(config, found.plugins, secrets.token_hex(16)),
        log_style=_style(config.log.format.value),
        port=port,
        storage_plugin=provider,
        receivers=config.dicom.receivers,
        data_folder=str(config.storage.path),
        ledger_url=config.ledger_url,
        is_durable=DataFolder.of(config).is_durable,
        log_level=config.log.level.value,
        trace_hooks=trace_hooks,
        stop_with_stdin=stop_with_stdin,
    )


def _style(configured: str) -> str:
    """Return the style of the logs of all processes."""
    if configured == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return configured
