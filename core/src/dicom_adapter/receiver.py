"""The receiver process: association and store.

It knows the configuration, the storage backend and the ledger, and calls no processor and no observer. It writes an
instance and its row, and wakes the host; what the host does with them, and when, does not concern it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import structlog
from attrs import evolve

from dicom_adapter import logs
from dicom_adapter.child import Channel
from dicom_adapter.clock import Clock, SystemClock
from dicom_adapter.config import load
from dicom_adapter.config.model import Config
from dicom_adapter.flow.association import AssociationRequest, Load, Verdict, judge, storage_full
from dicom_adapter.flow.store import Answer, Received, Status, Store
from dicom_adapter.ledger import Ledger, lanes
from dicom_adapter.net.server import Closed, Server
from dicom_adapter.part10 import keep_values_out_of_warnings
from dicom_adapter.plugins import discover
from dicom_adapter.storage import StorageBackend
from dicom_adapter.stores import open_ledger, open_storage

log = structlog.get_logger("dicom_adapter.receiver")


class Receiver:
    """Connects the network with the first two steps of the flow."""

    def __init__(
        self, config: Config, storage: StorageBackend[Any], ledger: Ledger, clock: Clock, wake_fd: int | None
    ) -> None:
        self._config = config
        self._storage = storage
        self._ledger = ledger
        self._store = Store(config, storage, ledger, clock)
        self._wake_fd = wake_fd

    def requested(self, association_id: str, request: AssociationRequest, associations: int) -> Verdict:
        with self._ledger.read() as transaction:
            stopped, full = lanes.stopped(transaction), lanes.full(transaction)
        busy = Load(associations=associations, capacity=self._storage.capacity(), stopped=stopped, full=full)
        verdict = judge(request, self._config, busy)
        fields = {
            "association_id": association_id,
            "ae_title": request.called_ae_title,
            "calling_ae_title": request.calling_ae_title,
            "peer": request.peer_address,
        }
        if verdict.rejection is None:
            log.info("association_accepted", **fields)
        else:
            log.warning("association_rejected", **fields, rejection=verdict.rejection.name, reason=verdict.why)
        return verdict

    def store(self, received: Received) -> Answer:
        full = storage_full(self._storage.capacity(), self._config.storage)
        answer = Answer(status=Status.OUT_OF_RESOURCES, why=full) if full else self._store.store(received)
        if answer.instance is not None:
            self._wake_host()
        _tell(received, answer)
        return answer

    def closed(self, closed: Closed) -> None:
        log.info(
            "association_closed",
            association_id=closed.association_id,
            ae_title=closed.request.called_ae_title,
            how=closed.how,
            statuses=dict(closed.statuses),
        )

    def _wake_host(self) -> None:
        if self._wake_fd is None:
            return
        try:
            os.write(self._wake_fd, b"\0")
        except (BlockingIOError, BrokenPipeError):
            pass  # the pipe is full of wake-ups that the host has yet to see, or the service is gone


def _tell(received: Received, answer: Answer) -> None:
    fields: dict[str, Any] = {
        "association_id": received.association_id,
        "ae_title": received.ae_title,
        "sop_instance_uid": received.sop_instance_uid,
    }
    if answer.instance is not None:
        log.info("instance_stored", **fields, instance_id=answer.instance.instance_id)
    elif answer.status is Status.SUCCESS:
        log.info("instance_not_kept", **fields, reason=answer.why)
    else:
        log.warning("instance_refused", **fields, status=f"0x{answer.status:04X}", reason=answer.why)


def main() -> None:
    """`python -m dicom_adapter.receiver`, started by the service."""
    channel = Channel()
    start = channel.start()
    keep_values_out_of_warnings()
    plugins = discover(only=start.plugins)
    config = load(start.configuration, folder=Path(start.folder), catalogue=plugins.catalogue()).config
    assert config is not None  # the service has checked it
    if start.port is not None:
        config = evolve(config, dicom=evolve(config.dicom, port=start.port))
    logs.configure(style=start.log_style, level=config.log.level, process="receiver")
    storage, ledger = open_storage(config, plugins.catalogue()), open_ledger(config)
    os.set_blocking(start.wake_fd, False)
    server = Server(config.dicom, Receiver(config, storage, ledger, SystemClock(), start.wake_fd))
    _serve(channel, server, config)
    storage.close()
    ledger.close()


def _serve(channel: Channel, server: Server, config: Config) -> None:
    try:
        port = server.start()
    except OSError as failure:
        address = f"{config.dicom.bind}:{config.dicom.port}"
        channel.report("failed", reason=f"cannot listen on {address}: {failure.strerror}")
        return
    log.info("receiver_listening", port=port, pid=os.getpid())
    channel.report("listening", port=port)
    asked = channel.wait_for_stop()
    server.stop(config.dicom.drain_timeout if asked else 0)
    log.info("receiver_stopped", drained=asked)


if __name__ == "__main__":
    main()
