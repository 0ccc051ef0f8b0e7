"""`python receive_sender.py ORDER`: one sender with minimal cost, which prints its results as JSON.

ORDER is an `Order` as JSON. The program prints `ready`, waits for a line, and sends. The program imports only modules
that load quickly; the data set is read from a file.
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
class Order:
    """The task of a sender."""

    port: int
    called: str  # AE title
    data_set: str  # file, Explicit VR Little Endian
    number: int  # of this sender, unique in a benchmark, because UIDs are derived from it
    count: int  # maximum number of instances
    seconds: float  # maximum duration; at least one instance is sent
    is_association_each: bool  # one association for each instance, instead of one for all instances
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


def send(order: Order) -> Sent:
    """Send the instances of `order`. Raises LinkFailed, OSError."""
    data_set = Path(order.data_set).read_bytes()
    study, series = make_uid(2, order.number), make_uid(3, order.number)
    numbers = iter(range(order.number * 10**9, order.number * 10**9 + order.count))
    message: Message | None = None
    asked, used = time.monotonic(), time.process_time()
    began, rejections, count, is_over = 0.0, 0, 0, False
    while not is_over and count < order.count:
        with Link(order.port, order.called) as link:
            rejections += link.rejections
            began = began or time.monotonic()
            longest = min(order.longest_pdu, link.accepted.maximum_length or order.longest_pdu)
            message = message or store_request(data_set, study, series, longest)
            for number in numbers:
                link.store(message.rename(make_uid(1, number)))
                count += 1
                is_over = time.monotonic() - asked > order.seconds
                if is_over or order.is_association_each:
                    break
    ended = time.monotonic()
    return Sent(count=count, began=began, ended=ended, cpu_seconds=time.process_time() - used, rejections=rejections)


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(json.dumps(attrs.asdict(send(order))) + "\n")


if __name__ == "__main__":
    main()
