"""Live updates: one snapshot for all viewers, only while somebody watches; slow viewers delay nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Any

import pytest

from dicom_adapter.api.errors import LedgerUnavailable, Retriable
from dicom_adapter.web.pages import live as module
from dicom_adapter.web.pages.live import Live


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute snapshots without pauses, so that no test waits."""
    monkeypatch.setattr(module, "EVERY_S", 0.0)
    monkeypatch.setattr(module, "LOAD_FACTOR", 0.0)
    yield


class Source:
    """Counts its calls; the content is another one in each call, or always the same."""

    def __init__(self, *, changes: bool = True) -> None:
        self.calls = 0
        self._changes = changes

    def __call__(self, topics: Collection[str]) -> dict[str, Any]:
        self.calls += 1
        return {topic: {"number": self.calls if self._changes else 1} for topic in topics}


async def messages(stream: AsyncIterator[bytes], count: int) -> list[bytes]:
    """Read messages, without the first line, which sets the time of a reconnection."""
    assert b"retry: 2000\n\n" == await anext(stream)
    return [await anext(stream) for _number in range(count)]


async def closed(*streams: AsyncIterator[bytes]) -> None:
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined] # they are generators


def test_all_viewers_get_the_same_snapshot() -> None:
    source = Source(changes=False)

    async def watch() -> None:
        live = Live(source, limit=50)
        streams = [live.open("overview") for _number in range(50)]
        found = await asyncio.gather(*(messages(stream, 1) for stream in streams))
        assert [[b'data: {"number":1}\n\n']] * 50 == found
        assert 50 == live.viewers
        await closed(*streams)
        assert 0 == live.viewers

    asyncio.run(watch())
    assert source.calls < 50


def test_nothing_is_computed_while_nobody_watches() -> None:
    """The first viewer begins it, and it ends after the last one."""
    source = Source()

    async def watch() -> None:
        live = Live(source, limit=5)
        await asyncio.sleep(0)
        assert 0 == source.calls
        stream = live.open("overview")
        await messages(stream, 2)
        await closed(stream)
        assert live._producer is not None
        await live._producer
        ended_with = source.calls
        await asyncio.sleep(0)
        assert ended_with == source.calls

    asyncio.run(watch())


def test_a_viewer_that_reads_late_gets_the_newest_snapshot() -> None:
    """It delays no other viewer."""

    async def watch() -> None:
        live = Live(Source(), limit=5)
        slow, quick = live.open("overview"), live.open("overview")
        assert b"retry: 2000\n\n" == await anext(slow)
        newest = (await messages(quick, 10))[-1]
        late = await anext(slow)
        assert int(late.split(b":")[-1].split(b"}")[0]) >= int(newest.split(b":")[-1].split(b"}")[0])
        await closed(slow, quick)

    asyncio.run(watch())


def test_streams_above_the_limit_are_refused() -> None:
    """The page is then read again every few seconds."""

    async def watch() -> None:
        live = Live(Source(), limit=1)
        stream = live.open("overview")
        await messages(stream, 1)
        with pytest.raises(Retriable, match="updated live"):
            live.open("overview")
        await closed(stream)

    asyncio.run(watch())


def test_the_stop_of_the_server_ends_all_streams() -> None:
    """`stop` is called on another thread. Verified to fail if the streams are not woken."""

    async def watch() -> None:
        live = Live(Source(changes=False), limit=5)
        stream = live.open("overview")
        await messages(stream, 1)
        waiting = asyncio.ensure_future(anext(stream, b"the end"))
        await asyncio.sleep(0)
        stopping = threading.Thread(target=live.stop)
        stopping.start()
        assert b"the end" == await asyncio.wait_for(waiting, 10)
        stopping.join()
        with pytest.raises(Retriable, match="stops"):
            live.open("overview")
        live.start()
        assert 0 == live.viewers

    asyncio.run(watch())


@pytest.mark.parametrize("failure", [LedgerUnavailable("the disk is full"), RuntimeError("a secret")])
def test_a_failure_is_reported_to_the_viewers(failure: Exception) -> None:
    """The message of an unexpected failure is not shown."""

    def fail(_topics: Collection[str]) -> dict[str, Any]:
        raise failure

    async def watch() -> None:
        live = Live(fail, limit=5)
        stream = live.open("overview")
        (message,) = await messages(stream, 1)
        assert b'"problem":' in message
        assert b"a secret" not in message
        await closed(stream)

    asyncio.run(watch())
