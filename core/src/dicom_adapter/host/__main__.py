"""The host process: `python -m dicom_adapter.host`, started by the service."""

from __future__ import annotations

from dicom_adapter.runtime import (
    pydicom_without_requests,  # noqa: F401 - before anything loads pydicom
    structlog_without_extras,  # noqa: F401 - before anything loads structlog
)

# isort: split
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import structlog

from dicom_adapter.api.errors import Refused, StorageUnavailable, describe_failure
from dicom_adapter.config import load, plugin_settings
from dicom_adapter.config.model import Config
from dicom_adapter.dicom.part10 import keep_values_out_of_warnings
from dicom_adapter.host.threads import HostProcess
from dicom_adapter.plugins.measured import CallStatistics
from dicom_adapter.plugins.registry import Plugins, discover
from dicom_adapter.runtime import logs
from dicom_adapter.runtime.channel import APPLIED, FAILED, NOT_APPLIED, Channel, Start
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import UNUSABLE, DataFolder, report_unusable, with_pids
from dicom_adapter.runtime.ledger_lock import LedgerLock
from dicom_adapter.runtime.logs.capture import capture

log = structlog.get_logger("dicom_adapter.host")


NICENESS = 5  # the host runs with lower priority than the receivers, because senders wait for these


def main() -> None:
    """Run the host process until the service stops it."""
    channel = Channel()
    start = channel.start()
    keep_values_out_of_warnings()
    os.nice(NICENESS)
    statistics = CallStatistics(trace=start.trace_hooks)
    plugins = discover(disable=plugin_settings(start.configuration).disable, statistics=statistics)
    config = load(start.configuration, folder=Path(start.folder), catalogue=plugins.catalogue()).config
    assert config is not None  # the service has checked the configuration
    logs.configure(style=start.log_style, level=config.log.level, process="host", descriptor=start.log_fd)
    capture()
    statistics.flush_log()
    _log_plugins(plugins)
    with ExitStack() as locks:
        if _lock_data_folder(channel, start, config, locks):
            _run(channel, start, config, plugins)


def _lock_data_folder(channel: Channel, start: Start, config: Config, locks: ExitStack) -> bool:
    """Lock the data folder and the ledger until `locks` is closed. If that fails, report the reason; return False."""
    folder = DataFolder.of(config)
    try:
        # First: if the disk is not mounted, nothing may be created in its mount point.
        _marker = folder.prepare() if start.is_first else folder.require_marker()
        is_only_host = locks.enter_context(folder.as_host(os.getppid()))
        may_use_folder = locks.enter_context(folder.shared())
        ledger_refusal = ""
        if is_only_host and may_use_folder:
            ledger_refusal = locks.enter_context(LedgerLock(folder.ledger, folder.path).hold(os.getppid()))
    except StorageUnavailable as failure:
        channel.report(FAILED, reason=str(failure))
        return False
    except UNUSABLE as failure:
        report_unusable(channel, f"the data folder {config.storage.path} cannot be created or locked", failure)
        return False
    reason = ""
    if not may_use_folder:
        repair = with_pids("`audit --repair`", folder.user_pids)
        reason = f"{repair} is using {config.storage.path}; start the service when the repair has ended"
    elif not is_only_host:
        reason = f"{with_pids('another dicom-adapter', folder.service_pids)} is already using {config.storage.path}"
    elif ledger_refusal:
        reason = f"{ledger_refusal}; give each service a ledger of its own with `[ledger] url`"
    if reason:
        channel.report(FAILED, reason=reason)
    return not reason


def _log_plugins(plugins: Plugins) -> None:
    for problem in plugins.broken:
        log.error("plugin_load_failed", problem=problem)
    for info in plugins.infos:
        if info.disabled:
            log.info("plugin_disabled", plugin=str(info), reason=info.disabled)
    for problem in plugins.unknown:
        log.warning("plugin_unknown", problem=problem)


def _run(channel: Channel, start: Start, config: Config, plugins: Plugins) -> None:
    try:
        clock = SystemClock(start.clock)
        process = HostProcess(
            config,
            plugins,
            clock,
            is_first=start.is_first,
            counts_fd=start.counts_fd,
            path=start.path,
            report_alive=channel.report_alive,
        )
        folder = DataFolder.of(config)
        folder.record_open_files(folder.require_marker())  # for `displaced`, which notices files that were replaced
        if start.is_first:
            process.start_http_server()
    except UNUSABLE as failure:
        report_unusable(channel, f"the data folder {config.storage.path} cannot be used", failure)
        return
    except Refused as refusal:
        channel.report(FAILED, reason=str(refusal))
        return
    process.start(start.wake_fd)
    log.info("host_started", pid=os.getpid())
    channel.report("ready")
    stop_was_requested = channel.wait_for_stop(partial(_configure, channel, process, plugins))
    process.stop()
    log.info("host_stopped", requested=stop_was_requested)


def _configure(channel: Channel, process: HostProcess, plugins: Plugins, start: Start) -> None:
    """Apply a changed configuration, and report the result."""
    loaded = load(start.configuration, folder=Path(start.folder), catalogue=plugins.catalogue())
    if loaded.config is None:
        channel.report(NOT_APPLIED, reason="; ".join(map(str, loaded.problems)))
        return
    try:
        hanging = process.configure(loaded.config)
    except Refused as refusal:
        channel.report(NOT_APPLIED, reason=str(refusal))
    except Exception as failure:  # noqa: BLE001 - any failure: the configuration is applied in part, so the host must be restarted
        channel.report(FAILED, reason=f"the changed configuration could not be applied: {describe_failure(failure)}")
    else:
        channel.report(APPLIED, hanging=hanging)


if __name__ == "__main__":
    main()
    logs.close()
    # Do not wait for an upload that hangs: this process must end, to release the lock of the host.
    os._exit(0)
