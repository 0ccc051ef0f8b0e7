"""A user of the cache: `python -m faults.composer`, which composes jobs of what the senders' studies became, over REST.

What has no answer is asked again, with the same Idempotency-Key, until there is one: the adapter is killed meanwhile,
and some connections break, as those of the senders do.
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
from faults.clients import work
from faults.orders import COMPOSED, CONFLICT, PASSING, UNKNOWN, Order
from faults.records import SUCCESS, Record

ANSWER_SECONDS = 45.0  # that it waits; the cache gives up before, unless a turn has begun
PAUSE_SECONDS = (0.05, 0.6)  # between two requests
REPEAT_SECONDS = (0.05, 0.5)  # after a request without an answer
AGAIN = {COMPOSED: 0.4, CONFLICT: 0.7, UNKNOWN: 0.3}  # how often an order is given again after this answer
AGAIN_AFTER = (0.2, 12.0)  # seconds
DELETIONS = 0.1  # of its requests
CLEANING_UP, INSISTING = 0.2, 0.4  # of the orders
MOST_STUDIES = 3  # of an order
RECENT = 12  # studies that it chooses from: so that they are used twice, and while they arrive
STAYING = 5  # studies, so that something is kept in the end
GONE = 0.1  # of the requests are for studies that are gone
BREAKING = 0.25  # of the connections
ONE_REQUEST = httpx.Limits(max_keepalive_connections=0)  # for each connection
HEAD_BYTES, ANSWER_BYTES = 700, 500  # of a request and of an answer, about


class Arrivals:
    """The studies of the cache that had an instance acknowledged, as the senders write it down; the oldest first."""

    def __init__(self, folder: Path) -> None:
        self.present: dict[str, None] = {}
        self.gone: dict[str, None] = {}  # deleted or cleaned up after, and nothing has come since
        self._folder = folder
        self._read: Counter[Path] = Counter()  # bytes of each record
        self._requests: dict[tuple[Path, int], str] = {}

    def look(self) -> None:
        """Read what is new."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read[path])
                lines = file.read().rpartition(b"\n")[0].splitlines(keepends=True)
            self._read[path] += sum(map(len, lines)) + (1 if lines else 0)
            for line in lines:
                self._take(path, json.loads(line))

    def _take(self, path: Path, entry: dict[str, Any]) -> None:
        if entry.get("ae_title") == CACHE:
            self._requests[path, entry["request"]] = entry["study_instance_uid"]
        elif (study := self._requests.pop((path, entry.get("answer", 0)), None)) and entry["status"] == SUCCESS:
            self.gone.pop(study, None)
            self.present[study] = None

    def leave(self, studies: Iterable[str]) -> None:
        """These go."""
        for study in studies:
            self.present.pop(study, None)
            self.gone[study] = None


@define(order=True)
class _Due:
    at: float
    number: int
    order: Order = field(order=False)


class Composer:
    """Composes, repeats and deletes, one request at a time."""

    def __init__(self, port: int, folder: Path, name: str, seed: str, senders: Path) -> None:
        """`port`: of the adapter's HTTP server; `senders`: where these write down what they do."""
        self._port = port
        self._name = name
        self._record = Record(folder / f"{name}.jsonl")
        self._arrivals = Arrivals(senders)
        self._random = Random(seed)
        self._client = httpx.Client(timeout=ANSWER_SECONDS, limits=ONE_REQUEST, trust_env=False)
        self._again: list[_Due] = []
        self._numbers = count(1)

    def run(self, stopping: threading.Event) -> None:
        """Work until told to stop."""
        while not stopping.wait(self._random.uniform(*PAUSE_SECONDS)):
            self._arrivals.look()
            if self._again and self._again[0].at <= time.monotonic():
                self._compose(heapq.heappop(self._again).order)
            elif not (studies := self._studies()):
                continue
            elif self._random.random() < DELETIONS and self._may_go():
                self._delete(self._random.choice(studies))
            else:
                self._compose(self._order(studies))
        self._record.close()

    def _studies(self) -> list[str]:
        """Those that something may be asked of."""
        is_gone = self._random.random() < GONE
        return list(self._arrivals.gone if is_gone else self._arrivals.present)[-RECENT:]

    def _may_go(self) -> bool:
        return len(self._arrivals.present) > STAYING

    def _order(self, studies: list[str]) -> Order:
        random = self._random
        return Order(
            key=f"{self._name}-{next(self._numbers)}",
            studies=random.sample(studies, random.randint(1, min(MOST_STUDIES, len(studies)))),
            pipeline=random.choice(AE_TITLES[CACHE].pipelines),
            submitter=random.choice([None, "grpc", "rest"]),
            keep=random.random() >= CLEANING_UP or not self._may_go(),
            insist=random.random() < INSISTING,
        )

    def _compose(self, order: Order) -> None:
        """Give an order until there is an answer, and perhaps once more later."""
        body = asdict(order)
        body["name"] = body.pop("key")
        while True:
            request = self._record.begin({"order": asdict(order), "began": time.time()})
            answer = self._ask("POST", "/jobs", json=body, headers={"Idempotency-Key": order.key})
            if answer is not None:
                self._record.end(request, **_told(answer))
                if answer.status_code != PASSING:
                    break
            time.sleep(self._random.uniform(*REPEAT_SECONDS))
        if answer.status_code == COMPOSED and not order.keep:
            self._arrivals.leave(order.studies)
        if self._random.random() < AGAIN.get(answer.status_code, 0):
            later = time.monotonic() + self._random.uniform(*AGAIN_AFTER)
            heapq.heappush(self._again, _Due(later, next(self._numbers), order))

    def _delete(self, study: str) -> None:
        while True:
            request = self._record.begin({"study": study, "began": time.time()})
            answer = self._ask("DELETE", f"/studies/{study}")
            if answer is not None:
                self._record.end(request, status=answer.status_code)
                if answer.status_code != PASSING:
                    break
            time.sleep(self._random.uniform(*REPEAT_SECONDS))
        self._arrivals.leave([study])

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """The answer, if there is one; some connections are made to break."""
        try:
            return self._client.request(method, f"http://127.0.0.1:{self._connection()}/cache{path}", **more)
        except httpx.TransportError:
            return None

    def _connection(self) -> int:
        """The port to connect to."""
        if self._random.random() >= BREAKING:
            return self._port
        if self._random.random() < 0.5:
            return BreakingConnection(self._port, there=self._random.randint(1, HEAD_BYTES)).port
        return BreakingConnection(self._port, back=self._random.randint(1, ANSWER_BYTES)).port


def _told(answer: httpx.Response) -> dict[str, Any]:
    """What is to be remembered of an answer to an order."""
    is_json = answer.headers.get("content-type", "").endswith("json")  # else whatever it is, it is no answer of ours
    told = answer.json() if is_json else {"type": answer.text}
    return {"status": answer.status_code, "job_id": told.get("jobId", ""), "problem": told.get("type", "")}


if __name__ == "__main__":
    work(Composer, __doc__, senders=Path)
