"""Observers: plugins that are notified of events. Each observer is a separate part, so that none delays another."""

from __future__ import annotations

import queue
import threading
import time
from datetime import datetime
from typing import Any

import structlog

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.plugins.registry import PluginInfo, Plugins
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.workers import SLICE_SECONDS

log = structlog.get_logger("dicom_adapter.host")
QUEUE_LIMIT = 10_000  # maximum number of waiting notifications of one observer, about 20 MB; later ones are dropped


class Observer:
    """A plugin that observes, with its queue of notifications. If it hangs, only this queue waits."""

    def __init__(self, plugin: PluginInfo, plugins: Plugins, clock: Clock) -> None:
        self._plugin = plugin
        self._plugins = plugins
        self._clock = clock
        self._queue: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue(QUEUE_LIMIT)
        self._dropped = 0  # number of notifications that were dropped since the queue was last empty
        self._lock = threading.Lock()  # guards `_dropped`

    def notify(self, hook: str, arguments: dict[str, Any]) -> bool:
        """Queue a notification; return False if the plugin does not implement the hook. Thread-safe."""
        if hook not in self._plugin.observes:
            return False
        try:
            self._queue.put_nowait((hook, arguments))
        except queue.Full:
            with self._lock:
                self._dropped += 1
                first = self._dropped == 1
            if first:
                log.error("observer_queue_filled", plugin=str(self._plugin), waiting=QUEUE_LIMIT)
        return True

    def step(self) -> datetime | None:
        """Deliver queued notifications. A step ends after a slice of time; the next step continues."""
        end = time.monotonic() + SLICE_SECONDS
        while not self._queue.empty():
            hook, arguments = self._queue.get()
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
