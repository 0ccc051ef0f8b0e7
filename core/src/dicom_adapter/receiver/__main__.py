"""The receiver process: `python -m dicom_adapter.receiver`, started by the service."""

from __future__ import annotations

from dicom_adapter.receiver import pydicom_without_numpy  # noqa: F401 - before anything loads pydicom
from dicom_adapter.runtime import structlog_without_extras  # noqa: F401 - before anything loads structlog
from dicom_adapter.runtime.resources import Resources

# isort: split
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from attrs import evolve

from dicom_adapter.config import load
from dicom_adapter.config.model import Config
from dicom_adapter.dicom.part10 import keep_values_out_of_warnings
from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.health import RECEIVER, PartState, receiver_names
from dicom_adapter.net.address import cannot_listen
from dicom_adapter.net.server import DicomServer
from dicom_adapter.net.tls import UnusableCertificate
from dicom_adapter.plugins.measured import CallStatistics
from dicom_adapter.plugins.registry import Plugins, discover
from dicom_adapter.receiver.measured_scp import MeasuredScp
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.receiver.traced_scp import TracedScp
from dicom_adapter.runtime import logs
from dicom_adapter.runtime.channel import APPLIED, FAILED, NOT_APPLIED, Channel, Start
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import UNUSABLE, DataFolder, report_unusable, with_pids
from dicom_adapter.runtime.logs.capture import capture
from dicom_adapter.runtime.parts import Part, PartKind, process_part
from dicom_adapter.runtime.shared_counts import Counts
from dicom_adapter.runtime.watch import PartFinding, Watch
from dicom_adapter.runtime.workers import Worker

log = structlog.get_logger("dicom_adapter.receiver")

# Limit of the wait for other transactions of the ledger. If threads of this process also wait for each other, the limit
# is 1.5 times this value. An instance without a recovery record waits for at most two commits: the one that runs when
# the instance is complete, and its own. So it is answered within 10 s.
LEDGER_WAIT_SECONDS = 3.0


CHECK_EVERY = timedelta(seconds=5)  # time between two checks of the causes of refusals


def main() -> None:
    """Run a receiver process until the service stops it."""
    channel = Channel()
    start = channel.start()
    keep_values_out_of_warnings()
    statistics = CallStatistics(trace=start.trace_hooks)
    plugins = discover(only=start.plugins, statistics=statistics)
    service_config = load(start.configuration, folder=Path(start.folder), catalogue=plugins.catalogue()).config
    assert service_config is not None  # the service has checked the configuration
    receivers = service_config.dicom.receivers
    name = receiver_names(receivers)[start.number - 1]
    config = _config_of_receiver(service_config, start)
    logs.configure(style=start.log_style, level=config.log.level, process=name, descriptor=start.log_fd)
    capture()
    statistics.flush_log()
    folder = DataFolder.of(config)
    try:
        folder.require_marker()  # first: if the disk is not mounted, nothing may be created in its mount point
        with folder.shared() as may_use_folder:
            if may_use_folder:
                _receive(channel, start, config, plugins, receiver_names(receivers))
            else:
                repair = with_pids("`audit --repair`", folder.user_pids)
                reason = f"{repair} is using {folder.path}; start the service when the repair has ended"
                channel.report(FAILED, reason=reason)
    except UNUSABLE as failure:
        report_unusable(channel, f"the data folder {folder.path} cannot be used", failure)


def _receive(channel: Channel, start: Start, config: Config, plugins: Plugins, names: Sequence[str]) -> None:
    """Run the receiver. `names` are the names of all receivers of the service."""
    name, shares_port = names[start.number - 1], len(names) > 1
    folder = DataFolder.of(config)
    marker = folder.require_marker()
    storage = folder.open_storage(config.storage, plugins.catalogue(), plugins.trace_storage)
    ledger = folder.open_ledger(config.ledger_url, LEDGER_WAIT_SECONDS)
    clock = SystemClock(start.clock)
    resources = Resources(ledger=ledger, storage=storage, clock=clock, storage_problem=marker.problem)
    os.set_blocking(start.wake_fd, False)
    receiver = Receiver(config, resources, start.wake_fd, name)
    try:
        receiver.recover(names)
    except UNUSABLE as failure:
        subject = "instances that were stored before this start cannot be recorded in the ledger"
        report_unusable(channel, subject, failure)
        return
    counts = Counts.of_process(start.counts_fd, start.number, has_one_thread=True)
    traced = TracedScp(receiver, resources) if resources.traces.is_on else None
    measured = MeasuredScp(traced or receiver, counts, config.ae_titles)
    server = DicomServer(config.dicom, measured, shares_port=shares_port, is_first=start.is_first)
    receiver_check = ReceiverCheck(server, receiver, channel, name)
    watch = Watch(receiver_check.examine, ledger, resources.clock, report_alive=channel.report_alive)

    def configure(changed: Start) -> None:
        """Apply a changed configuration, and report the result."""
        loaded = load(changed.configuration, folder=Path(changed.folder), catalogue=plugins.catalogue())
        if loaded.config is None:
            channel.report(NOT_APPLIED, reason="; ".join(map(str, loaded.problems)))
            return
        config = _config_of_receiver(loaded.config, changed)
        receiver.configure(config)
        measured.configure(config.ae_titles)
        server.configure(config.dicom)
        log.info("receiver_configured")
        channel.report(APPLIED)

    def check() -> datetime:
        """Forget problems and refusals whose causes have gone."""
        receiver.check(server.admission.peers_at_limit())
        return clock.now() + CHECK_EVERY

    _serve(channel, server, ledger, watch, Worker("refusals", check, clock), configure)
    receiver.close()
    if traced is not None:
        traced.close()
    storage.close()
    ledger.close()


def _config_of_receiver(config: Config, start: Start) -> Config:
    """Return the configuration of one receiver: its share of the limits, and the port of the service."""
    dicom = config.dicom.share_of(start.number)
    return evolve(config, dicom=dicom if start.port is None else evolve(dicom, port=start.port))


class ReceiverCheck:
    """Checks that the receiver can accept connections and commit instances. If not, the service restarts it."""

    def __init__(self, server: DicomServer, receiver: Receiver, channel: Channel, name: str = RECEIVER) -> None:
        """Check the receiver `name`."""
        self._server = server
        self._receiver = receiver
        self._channel = channel
        self._name = name
        self._refusals = Part(PartKind.REFUSALS, name)
        self._reported = False

    def examine(self) -> Mapping[Part, PartFinding]:
        if self._server.accept_loop_died:
            reason = "the receiver accepts no more connections: its accept thread has ended"
        elif not (self._receiver.commits_are_alive or self._server.is_stopping):
            reason = "the receiver acknowledges no more instances: its commit thread has ended"
        else:
            # If storage or ledger were replaced, a restart would not help, and would end open associations.
            problem = self._receiver.storage_problem
            finding = PartFinding(state=PartState.FAILING, reason=problem) if problem else PartFinding()
            return {process_part(self._name): finding, self._refusals: self._receiver.refusals.finding()}
        if not self._reported:
            self._channel.report(FAILED, reason=reason)
            self._reported = True
        return {process_part(self._name): PartFinding(state=PartState.FAILING, reason=reason)}


def _serve(
    channel: Channel,
    server: DicomServer,
    ledger: Ledger,
    watch: Watch,
    check: Worker,
    configure: Callable[[Start], None],
) -> None:
    try:
        port = server.start()
    except OSError as failure:
        channel.report(FAILED, reason=cannot_listen(server.dicom.bind, server.dicom.port, failure))
        return
    except UnusableCertificate as refusal:
        channel.report(FAILED, reason=str(refusal))
        return
    log.info("receiver_listening", port=port, pid=os.getpid())
    channel.report("listening", port=port)
    watch.start()
    check.start()
    stop_was_requested = channel.wait_for_stop(configure)  # otherwise the supervisor has ended
    ledger.shorten_waits()
    if not server.accept_loop_died:  # otherwise there is no thread to stop
        server.stop(server.dicom.drain_timeout if stop_was_requested else 0)
    check.stop()
    watch.close()
    log.info("receiver_stopped", drained=stop_was_requested)


if __name__ == "__main__":
    main()
