"""Live updates: one snapshot a second for all viewers, computed only while somebody watches.

A viewer that reads slowly gets the newest snapshot when it continues, and delays no other viewer. A stream ends after
some minutes, and when the server stops; browsers then connect again, which checks their access again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

import structlog

from dicom_adapter.api.errors import DicomAdapterError, Retriable, describe_failure

log = structlog.get_logger("dicom_adapter.http")

EVERY_S = 1.0  # time between two snapshots
LOAD_FACTOR = 10  # computing snapshots takes at most a tenth of the time, however large the ledger is
STREAM_S = 300.0  # time after which a stream ends, so that the access of the viewer is checked again
SILENCE_S = 15.0  # time without a change after which a comment is sent, so that a lost connection is noticed

Messages = Mapping[str, Any]  # the message for each topic; JSON values
Compute = Callable[[Collection[str]], Messages]  # from the topics that are watched


class Live:
    """Distributor of snapshots to the open dashboards.

    While the server runs, only `stop` may be called on another thread than its loop.
    """

    def __init__(self, compute: Compute, limit: int) -> None:
        """`compute` runs on another thread. `limit`: maximum number of streams."""
        self._compute = compute
        self._limit = limit
        self._topics: list[str]  # of each viewer
        self._messages: dict[str, tuple[int, bytes]]  # newest message of each topic, with its version
        self._changed: asyncio.Event  # replaced after each snapshot
        self._producer: asyncio.Task[None] | None
        self._loop: asyncio.AbstractEventLoop | None
        self._is_closed: bool
        self.start()

    @property
    def viewers(self) -> int:
        """The number of open streams."""
        return len(self._topics)

    def open(self, topic: str) -> AsyncIterator[bytes]:
        """Return a stream of a topic. Raises Retriable if there are too many streams, or the server stops."""
        if self._is_closed:
            raise Retriable("the server stops")
        if self.viewers >= self._limit:
            raise Retriable(f"{self._limit} pages are updated live; this page is updated every few seconds instead")
        return self._stream(topic)

    def start(self) -> None:
        """Accept viewers, on a new loop."""
        self._topics, self._messages, self._producer, self._loop = [], {}, None, None
        self._changed, self._is_closed = asyncio.Event(), False

    def stop(self) -> None:
        """End all streams. Thread-safe."""
        self._is_closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._announce)

    async def _stream(self, topic: str) -> AsyncIterator[bytes]:
        self._topics.append(topic)
        try:
            self._produce_snapshots()
            yield b"retry: 2000\n\n"
            sent, end = 0, time.monotonic() + STREAM_S
            while not self._is_closed and time.monotonic() < end:
                changed = self._changed
                version, message = self._messages.get(topic, (0, b""))
                if version != sent:
                    sent = version
                    yield message
                elif not await _is_set_within(changed, SILENCE_S):
                    yield b": nothing has changed\n\n"
        finally:
            self._topics.remove(topic)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _produce_snapshots(self) -> None:
        if self._producer is None or self._producer.done():
            self._loop = asyncio.get_running_loop()
            self._producer = self._loop.create_task(self._produce())

    async def _produce(self) -> None:
        """Compute snapshots until nobody watches."""
        while self._topics and not self._is_closed:
            started = time.monotonic()
            await self._update()
            pause = max(EVERY_S, LOAD_FACTOR * (time.monotonic() - started))
            end = time.monotonic() + pause
            while self._topics and not self._is_closed and time.monotonic() < end:
                await asyncio.sleep(min(0.2, max(0.0, end - time.monotonic())))
        self._messages.clear()

    async def _update(self) -> None:
        """Compute the messages of the topics that are watched. Messages that are as before are not sent again."""
        try:
            found = await asyncio.to_thread(self._compute, frozenset(self._topics))
        except DicomAdapterError as failure:
            found = {key: {"problem": str(failure)} for key in self._topics}
        except Exception as failure:  # noqa: BLE001 - a fault here must not end the updates
            log.error("http_request_failed", error=describe_failure(failure))
            found = {key: {"problem": "The log of the adapter shows the error."} for key in self._topics}
        for topic, content in found.items():
            version, before = self._messages.get(topic, (0, b""))
            message = b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
            if message != before:
                self._messages[topic] = version + 1, message
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:  # in Python 3.10, this is another class than TimeoutError
        return False
    return True
