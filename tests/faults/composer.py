"""A user of the cache: `python -m faults.composer` composes jobs from the senders' studies over REST.

A request without a response is repeated with the same Idempotency-Key until it has a response: the adapter is
killed repeatedly, and some connections break, like those of the senders.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import httpx
from attrs import asdict, define, field

from faults.adapter import AE_TITLES, CACHE
from faults.breaking import BreakingConnection
from faults.clients import run_client
from faults.orders import COMPOSED, CONFLICT, NOT_FOUND, UNAVAILABLE, Order
from faults.records import SUCCESS, Record

ANSWER_SECONDS = 45.0  # the cache responds earlier, unless a turn has begun
PAUSE_SECONDS = (0.05, 0.6)  # between two requests
REPEAT_SECONDS = (0.05, 0.5)  # after a request without a response
AGAIN = {COMPOSED: 0.4, CONFLICT: 0.7, NOT_FOUND: 0.3}  # probability that an order is repeated after this status
AGAIN_AFTER = (0.2, 12.0)  # seconds
DELETIONS = 0.1  # share of the composer's requests
CLEANING_UP, INSISTING = 0.2, 0.4  # shares of the orders without `keep`, and with `insist`
MAX_STUDIES = 3  # in one order
RECENT = 12  # choose among this many recent studies, so that studies are used twice, and while they arrive
STAYING = 5  # keep this many studies, so that some remain at the end
GONE = 0.1  # share of requests for studies that were deleted
BREAKING = 0.25  # share of the connections that break
ONE_REQUEST = httpx.Limits(max_keepalive_connections=0)  # one request for each connection
HEAD_BYTES, ANSWER_BYTES = 700, 500  # approximate sizes of a request and a response


class Arrivals:
    """The studies of the cache with an acknowledged instance, as the senders recorded them, oldest first."""

    def __init__(self, folder: Path) -> None:
        self.present: dict[str, None] = {}
        self.gone: dict[str, None] = {}  # studies that were deleted and not received again
        self._folder = folder
        self._read: Counter[Path] = Counter()  # number of bytes read from each record
        self._requests: dict[tuple[Path, int], str] = {}

    def look(self) -> None:
        """Read new lines of the records."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read[path])
                lines = file.read().rpartition(b"\n")[0].splitlines(keepends=True)
            self._read[path] += sum(map(len, lines)) + (1 if lines else 0)
            for line in lines:
                self._add(path, json.loads(line))

    def _add(self, path: Path, entry: dict[str, Any]) -> None:
        if entry.get("ae_title") == CACHE:
            self._requests[path, entry["request"]] = entry["study_instance_uid"]
        elif (study := self._requests.pop((path, entry.get("answer", 0)), None)) and entry["status"] == SUCCESS:
            self.gone.pop(study, None)
            self.present[study] = None

    def mark_gone(self, studies: Iterable[str]) -> None:
        """Note that these studies are deleted."""
        for study in studies:
            self.present.pop(study, None)
            self.gone[study] = None


@define(order=True)
class _Due:
    """An order that is sent again at a time of the monotonic clock."""

    at: float
    number: int
    order: Order = field(order=False)


class Composer:
    """A client that composes, repeats and deletes, one request at a time."""

    def __init__(self, port: int, folder: Path, name: str, seed: str, senders: Path) -> None:
        """`port`: port of the adapter's HTTP server. `senders`: the folder of the senders' records."""
        self._port = port
        self._name = name
        self._record = Record(folder / f"{name}.jsonl")
        self._arrivals = Arrivals(senders)
        self._random = Random(seed)
        self._client = httpx.Client(timeout=ANSWER_SECONDS, limits=ONE_REQUEST, trust_env=False)
        self._again: list[_Due] = []
        self._numbers = count(1)

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set."""
        while not stopping.wait(self._random.uniform(*PAUSE_SECONDS)):
            self._arrivals.look()
            if self._again and self._again[0].at <= time.monotonic():
                self._compose(heapq.heappop(self._again).order)
            elif not (studies := self._studies()):
                continue
            elif self._random.random() < DELETIONS and self._may_delete():
                self._delete(self._random.choice(studies))
            else:
                self._compose(self._order(studies))
        self._record.close()

    def _studies(self) -> list[str]:
        """Return the studies from which the next request selects."""
        is_gone = self._random.random() < GONE
        return list(self._arrivals.gone if is_gone else self._arrivals.present)[-RECENT:]

    def _may_delete(self) -> bool:
        return len(self._arrivals.present) > STAYING

    def _order(self, studies: list[str]) -> Order:
        random = self._random
        return Order(
            key=f"{self._name}-{next(self._numbers)}",
            studies=random.sample(studies, random.randint(1, min(MAX_STUDIES, len(studies)))),
            pipeline=random.choice(AE_TITLES[CACHE].pipelines),
            submitter=random.choice([None, "grpc", "rest"]),
            keep=random.random() >= CLEANING_UP or not self._may_delete(),
            insist=random.random() < INSISTING,
        )

    def _compose(self, order: Order) -> None:
        """Send an order until there is a response, and possibly repeat it later."""
        body = asdict(order)
        body["name"] = body.pop("key")
        while True:
            request = self._record.begin({"order": asdict(order), "began": time.time()})
            answer = self._ask("POST", "/jobs", json=body, headers={"Idempotency-Key": order.key})
            if answer is not None:
                self._record.end(request, **_recorded_fields(answer))
                if answer.status_code != UNAVAILABLE:
                    break
            time.sleep(self._random.uniform(*REPEAT_SECONDS))
        if answer.status_code == COMPOSED and not order.keep:
            self._arrivals.mark_gone(order.studies)
        if self._random.random() < AGAIN.get(answer.status_code, 0):
            later = time.monotonic() + self._random.uniform(*AGAIN_AFTER)
            heapq.heappush(self._again, _Due(later, next(self._numbers), order))

    def _delete(self, study: str) -> None:
        while True:
            request = self._record.begin({"study": study, "began": time.time()})
            answer = self._ask("DELETE", f"/studies/{study}")
            if answer is not None:
                self._record.end(request, status=answer.status_code)
                if answer.status_code != UNAVAILABLE:
                    break
            time.sleep(self._random.uniform(*REPEAT_SECONDS))
        self._arrivals.mark_gone([study])

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """Return the response, or None without a response. Some connections break on purpose."""
        try:
            return self._client.request(method, f"http://127.0.0.1:{self._connection()}/cache{path}", **more)
        except httpx.TransportError:
            return None

    def _connection(self) -> int:
        """Return the port to connect to."""
        if self._random.random() >= BREAKING:
            return self._port
        if self._random.random() < 0.5:
            return BreakingConnection(self._port, there=self._random.randint(1, HEAD_BYTES)).port
        return BreakingConnection(self._port, back=self._random.randint(1, ANSWER_BYTES)).port


def _recorded_fields(answer: httpx.Response) -> dict[str, Any]:
    """Return the fields of a response to an order that are recorded."""
    is_json = answer.headers.get("content-type", "").endswith("json")  # other responses are not from the adapter
    fields = answer.json() if is_json else {"type": answer.text}
    return {"status": answer.status_code, "job_id": fields.get("jobId", ""), "problem": fields.get("type", "")}


if __name__ == "__main__":
    run_client(Composer, __doc__, senders=Path)
