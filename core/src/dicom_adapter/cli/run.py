"""`dicom-adapter run`."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, Read, find_file, read
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.plugins.registry import STORAGE
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.service.blueprint import Blueprint
from dicom_adapter.service.reload.snapshot import snapshot

SERVICE_MODULE = "dicom_adapter.service"


def run(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Do not start when any plugin is broken or anything needed is missing.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Listen on this port instead of the configured one; 0 takes any free one."),
    ] = None,
    trace_hooks: Annotated[
        bool,
        typer.Option("--trace-hooks", help="Log every call of a plugin, with how long it took and what it came to."),
    ] = False,
    stop_with_stdin: Annotated[
        bool, typer.Option("--stop-with-stdin", help="Stop, too, when standard input ends: with whoever started it.")
    ] = False,
) -> None:
    """Run the service until SIGTERM or Ctrl-C. SIGHUP has it apply the changed file, as `reload --apply` does.

    AE titles whose plugins are missing or broken refuse associations, the others are served. Logs go to stderr.
    Exit status: 0 after an orderly stop, 1 when the service cannot start.
    """
    path = find_file(file, config)
    found = read(path)
    if found.loaded.config is None:
        raise fail(*found.invalid)
    if found.unavailable and strict:
        raise fail(*found.unavailable, "not started, because --strict was given")
    warn(*found.unavailable)
    _become_the_service(_blueprint(found, path, port, trace_hooks=trace_hooks, stop_with_stdin=stop_with_stdin))


def _become_the_service(blueprint: Blueprint) -> None:
    """Go on as a process that has loaded no plugin, under the same number; this one ends here.

    The configuration goes there in memory: it may have secrets, and a disk may be full.
    """
    with os.fdopen(os.memfd_create("blueprint", flags=0), "w", encoding="utf-8") as file:
        json.dump(blueprint.to_json(), file)
        file.flush()
        command = [sys.executable, "-m", SERVICE_MODULE, str(file.fileno())]
        os.execv(sys.executable, command)  # noqa: S606 - ourselves


def _blueprint(found: Read, path: Path, port: int | None, *, trace_hooks: bool, stop_with_stdin: bool) -> Blueprint:
    config = found.loaded.config
    assert config is not None  # the caller has checked
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
        ledger_url=config.ledger_url,
        is_durable=DataFolder.of(config).is_durable,
        log_level=config.log.level.value,
        trace_hooks=trace_hooks,
        stop_with_stdin=stop_with_stdin,
    )


def _style(configured: str) -> str:
    """Decided once for all processes."""
    if configured == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return configured
