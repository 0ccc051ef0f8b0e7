"""`python receive_sender.py TASK`: send instances with little CPU time, and print the results as JSON.

TASK is a `SenderTask` as JSON. The program prints `ready`, waits for a line, and sends. The program imports only
modules that load quickly; the data set is read from a file.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import attrs
from receive_link import Link
from receive_pdus import Message, make_uid, store_request


@attrs.frozen(kw_only=True)
class SenderTask:
    """The task of a sender."""

    port: int
    called: str  # AE title
    data_set: str  # file, Explicit VR Little Endian
    number: int  # of this sender, unique in a benchmark, because UIDs are derived from it
    count: int  # maximum number of instances
    seconds: float  # maximum duration; at least one instance is sent
    has_association_per_instance: bool  # one association for each instance, instead of one for all instances
    longest_pdu: int  # bytes; smaller if the receiver accepts only smaller PDUs

    def write(self) -> str:
        return json.dumps(attrs.asdict(self))


@attrs.frozen(kw_only=True)
class Sent:
    """The results of a sender."""

    count: int  # instances
    began: float  # monotonic clock of the machine, when the first association was accepted
    ended: float  # when the last response was received
    cpu_seconds: float  # of the sender
    rejections: int  # associations that a busy receiver rejected


def send(task: SenderTask) -> Sent:
    """Send the instances of `task`. Raises LinkFailed, OSError."""
    data_set = Path(task.data_set).read_bytes()
    study, series = make_uid(2, task.number), make_uid(3, task.number)
    numbers = iter(range(task.number * 10**9, task.number * 10**9 + task.count))
    message: Message | None = None
    started, used = time.monotonic(), time.process_time()
    began, rejections, count, is_over = 0.0, 0, 0, False
    while not is_over and count < task.count:
        with Link(task.port, task.called) as link:
            rejections += link.rejections
            began = began or time.monotonic()
            longest = min(task.longest_pdu, link.accepted.maximum_length or task.longest_pdu)
            message = message or store_request(data_set, study, series, longest)
            for number in numbers:
                link.store(message.rename(make_uid(1, number)))
                count += 1
                is_over = time.monotonic() - started > task.seconds
                if is_over or task.has_association_per_instance:
                    break
    ended = time.monotonic()
    return Sent(count=count, began=began, ended=ended, cpu_seconds=time.process_time() - used, rejections=rejections)


def main() -> None:
    task = SenderTask(**json.loads(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(json.dumps(attrs.asdict(send(task))) + "\n")


if __name__ == "__main__":
    main()
