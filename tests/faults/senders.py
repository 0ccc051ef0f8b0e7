"""DICOM senders: each runs as `python -m faults.senders` until the standard input of this process is closed."""

from __future__ import annotations

import heapq
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random

from attrs import asdict, define, field
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association

from faults.breaking import BreakingConnection
from faults.clients import Client, run_client
from faults.records import Record, Records, Sent, read
from faults.studies import Delivery, End, Instance, deliveries

ANSWER_SECONDS = 20.0  # longer than the time limit of a locked ledger
PAUSE_SECONDS = (0.0, 0.6)  # between two associations
REJECTED_SECONDS = 1.0  # pause after a rejected association
UNREACHABLE_SECONDS = 0.3  # pause after another refusal: an adapter that listens again may soon be killed
NO_CONTEXT = "no presentation context accepted"
ASSOCIATE_BYTES = 300  # approximate size of an A-ASSOCIATE-RQ
LONGEST_ANSWERS = 1200  # bytes of an A-ASSOCIATE-AC and a few C-STORE-RSP
SENT_AGAIN = 0.8  # share of unacknowledged instances
SENT_AGAIN_AFTER = (0.2, 6.0)  # seconds


# --- in the sender's process ----------------------------------------------------------------------------------------


@define(order=True)
class _Due:
    """A delivery that begins at a time of the monotonic clock, or later."""

    at: float
    number: int
    delivery: Delivery = field(order=False)


class Sender:
    """Creates studies and sends them, one association at a time."""

    def __init__(self, port: int, folder: Path, name: str, seed: str) -> None:
        _config.STORE_SEND_CHUNKED_DATASET = True  # otherwise data sets would be decoded and encoded
        self._port = port
        self._record = Record(folder / f"{name}.jsonl")
        self._name = name
        self._studies = _studies(folder / name, seed)
        self._random = Random(f"{seed}/pauses")
        self._waiting: list[_Due] = []
        self._numbers = count()

    def run(self, stopping: threading.Event) -> None:
        """Send until `stopping` is set."""
        while not stopping.is_set():
            if not self._waiting or self._waiting[0].at > time.monotonic():
                for after, delivery in next(self._studies):
                    self._send_later(after, delivery)
            stopping.wait(self._deliver(heapq.heappop(self._waiting)))
        self._record.close()

    def _send_later(self, seconds: float, delivery: Delivery) -> None:
        heapq.heappush(self._waiting, _Due(time.monotonic() + seconds, next(self._numbers), delivery))

    def _deliver(self, due: _Due) -> float:
        """Deliver the instances. Return the pause until the next association, in seconds.

        An association that was refused for a time is always requested again: otherwise its instances would test
        nothing, and a killed adapter refuses most associations.
        """
        delivery, breaking = due.delivery, self._breaking(due.delivery)
        was_connected = threading.Event()
        association = self._associate(delivery, breaking.port if breaking else self._port, was_connected)
        if association.is_rejected:
            self._record.note({"not established": f"rejected: {association.acceptor.primitive.reason_str}"})
            self._send_later(self._random.uniform(*SENT_AGAIN_AFTER), delivery)
            return REJECTED_SECONDS
        if association.rejected_contexts and not association.is_established:
            self._record.note({"not established": NO_CONTEXT})
            return REJECTED_SECONDS
        if not association.is_established:
            self._record.note({"not established": _reason(was_connected.is_set(), breaking)})
            if breaking is not None and breaking.has_reached_target:
                due.delivery = Delivery(ae_title=delivery.ae_title, instances=delivery.instances)  # breaks only once
            heapq.heappush(self._waiting, due)
            return UNREACHABLE_SECONDS
        self._store_all(association, delivery)
        return self._random.uniform(*PAUSE_SECONDS)

    def _store_all(self, association: Association, delivery: Delivery) -> None:
        """Send the instances, end the association, and schedule what had no response."""
        wanted = len(delivery.instances)
        if delivery.end is End.ABORT:
            wanted = int(wanted * delivery.ends_at)
        missing = [
            instance
            for number, instance in enumerate(delivery.instances)
            if number >= wanted or not self._store(association, delivery, instance)
        ]
        if not association.is_established:
            self._note("lost")
        elif delivery.end is End.ABORT:
            association.abort()
            self._note("aborted")
        else:
            association.release()
            self._note("released")
        self._try_again(delivery, missing)

    def _note(self, end: str) -> None:
        self._record.note({"association": end})

    def _associate(self, delivery: Delivery, port: int, was_connected: threading.Event) -> Association:
        """Request an association. `was_connected` is set if there was a TCP connection."""

        def on_connected(event: evt.Event) -> None:
            was_connected.set()
            _send_at_once(event)

        entity = AE(self._name)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = ANSWER_SECONDS
        entity.connection_timeout = ANSWER_SECONDS
        pairs = dict.fromkeys((instance.sop_class, instance.transfer_syntax) for instance in delivery.instances)
        return entity.associate(
            "127.0.0.1",
            port,
            ae_title=delivery.ae_title,
            contexts=[build_context(*pair) for pair in pairs],
            evt_handlers=[(evt.EVT_CONN_OPEN, on_connected)],
        )

    def _breaking(self, delivery: Delivery) -> BreakingConnection | None:
        """Return the connection that breaks, or None if the delivery ends in another way."""
        size = ASSOCIATE_BYTES + sum(instance.size_bytes for instance in delivery.instances)
        if delivery.end is End.BREAK:
            return BreakingConnection(self._port, there=1 + int(size * delivery.ends_at))
        if delivery.end is End.LOSE_ANSWER:
            return BreakingConnection(self._port, back=1 + int(LONGEST_ANSWERS * delivery.ends_at))
        return None

    def _store(self, association: Association, delivery: Delivery, instance: Instance) -> bool:
        """Send a C-STORE. Return whether it had a response. A request that was not sent is not recorded."""
        if not association.is_established:
            return False
        sent = Sent(
            ae_title=delivery.ae_title,
            study_instance_uid=instance.study_instance_uid,
            sop_instance_uid=instance.sop_instance_uid,
            digest=instance.digest,
            checksum=instance.checksum,
            began=time.time(),
        )
        request = self._record.begin(asdict(sent))
        try:
            answer = association.send_c_store(instance.path)
        except RuntimeError:  # raised by pynetdicom if the association has ended
            return False
        if "Status" not in answer:
            return False
        self._record.end(request, status=answer.Status)
        return True

    def _try_again(self, delivery: Delivery, missing: Sequence[Instance]) -> None:
        """Schedule another delivery of most missing instances; as with real senders, some are never sent again."""
        if missing and self._random.random() < SENT_AGAIN:
            later = Delivery(ae_title=delivery.ae_title, instances=tuple(missing))
            self._send_later(self._random.uniform(*SENT_AGAIN_AFTER), later)


def _studies(folder: Path, seed: str) -> Iterator[list[tuple[float, Delivery]]]:
    for number in count():
        study = folder / str(number)
        study.mkdir(parents=True)
        yield deliveries(study, f"{seed}/{number}")


def _reason(was_connected: bool, breaking: BreakingConnection | None) -> str:
    """Return why there is no association, although it was not rejected."""
    if breaking is not None:
        return "broken by the sender" if breaking.has_reached_target else "not listening"
    return "closed or no response" if was_connected else "not listening"


def _send_at_once(event: evt.Event) -> None:
    """Send without delay: the second PDU of a C-STORE must not wait for the acknowledgement of the first one."""
    connection: socket.socket = event.assoc.dul.socket.socket  # type: ignore[union-attr,assignment] # it is open
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# --- in the process of the harness ----------------------------------------------------------------------------------


class Senders:
    """Several senders."""

    def __init__(self, folder: Path, seed: str, number: int) -> None:
        folder.mkdir()
        self.folder = folder
        self._clients = [Client("senders", folder, f"SENDER{number}", seed) for number in range(1, number + 1)]

    def start(self, port: int) -> None:
        for client in self._clients:
            client.start(port)

    def stop(self) -> list[int]:
        """Stop each sender after its current association. Returns the exit statuses."""
        for client in self._clients:
            client.request_stop()
        return [client.wait() for client in self._clients]

    def end(self) -> None:
        """Kill the senders that are running."""
        for client in self._clients:
            client.end()

    def records(self) -> Records:
        """Return the records so far."""
        return read(client.record for client in self._clients if client.record.exists())


if __name__ == "__main__":
    run_client(Sender, __doc__)
