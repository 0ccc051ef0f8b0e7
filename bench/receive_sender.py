"""`python receive_sender.py ORDER`: one sender, which costs next to nothing, and says what it did as JSON.

ORDER is an `Order` as JSON. It says `ready`, waits for a line, and sends. It imports nothing that takes time to load:
the data set comes in a file.
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
    """What a sender has to do."""

    port: int
    called: str  # AE title
    data_set: str  # file, Explicit VR Little Endian
    number: int  # of this sender: no other one of a benchmark has it, as UIDs come from it
    count: int  # instances at most
    seconds: float  # at most, from when it may begin; one instance is sent all the same
    is_association_each: bool  # an association for each instance, instead of one for all
    longest_pdu: int  # bytes; less, if the receiver takes less

    def write(self) -> str:
        return json.dumps(attrs.asdict(self))


@attrs.frozen(kw_only=True)
class Sent:
    """What a sender did."""

    count: int  # instances
    began: float  # monotonic clock of the machine; when the first association was accepted
    ended: float  # when the last response was there
    cpu_seconds: float  # of the sender
    rejections: int  # associations that the receiver was too busy for


def send(order: Order) -> Sent:
    """Carry out `order`. Raises LinkFailed, OSError."""
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
