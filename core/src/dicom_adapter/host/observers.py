"""Parts of the host that have something of their own to remember between two steps."""

from __future__ import annotations

import queue
import threading
import time
from datetime import datetime
from typing import Any, TypeVar

import structlog

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.plugins.registry import PluginInfo, Plugins
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.workers import SLICE_SECONDS

log = structlog.get_logger("dicom_adapter.host")

T = TypeVar("T")


NEWS_KEPT = 10_000  # notifications that wait for one observer, some 20 MB: beyond them, news is dropped


class Observer:
    """One plugin that observes, and what it is yet to be told. It may hang, and holds up nobody else."""

    def __init__(self, plugin: PluginInfo, plugins: Plugins, clock: Clock) -> None:
        self._plugin = plugin
        self._plugins = plugins
        self._clock = clock
        self._news: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue(NEWS_KEPT)
        self._dropped = 0  # since it had heard all there was
        self._lock = threading.Lock()  # guards `_dropped`

    def tell(self, hook: str, arguments: dict[str, Any]) -> bool:
        """Have it told of something, if it wants to hear of that; returns whether it does. From any thread."""
        if hook not in self._plugin.observes:
            return False
        try:
            self._news.put_nowait((hook, arguments))
        except queue.Full:
            with self._lock:
                self._dropped += 1
                first = self._dropped == 1
            if first:
                log.error("observer_lags", plugin=str(self._plugin), waiting=NEWS_KEPT)
        return True

    def has_news(self) -> bool:
        """Whether there is something that it was not told yet."""
        return not self._news.empty()

    def step(self) -> datetime | None:
        """Tell it what there is; what a step has no time for follows in the next one."""
        end = time.monotonic() + SLICE_SECONDS
        while self.has_news():
            hook, arguments = self._news.get()
            self._plugins.notify(self._plugin, hook, _observer_failed, **arguments)
            if time.monotonic() >= end:
                return self._clock.now()
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.error("notifications_dropped", plugin=str(self._plugin), dropped=dropped)
        return None


def _observer_failed(plugin: PluginInfo, hook: str, failure: BaseException) -> None:
    log.error("observer_failed", plugin=str(plugin), hook=hook, error=describe_failure(failure))
