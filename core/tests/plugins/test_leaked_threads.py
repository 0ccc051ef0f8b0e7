"""Threads that plugins leave running are counted for the plugin whose call started them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dicom_adapter.plugins import leaked_threads
from dicom_adapter.plugins.leaked_threads import describe_leak
from dicom_adapter.plugins.measured import CallStatistics
from dicom_adapter.runtime.parts import lane_part

LEAKED = 5


@pytest.fixture
def statistics() -> Iterator[CallStatistics]:
    """Return the statistics of a plugin that leaves threads running, and of a plugin that joins its thread."""
    end, started = threading.Event(), list[threading.Thread]()

    def leak() -> None:
        started.extend(threading.Thread(target=end.wait, daemon=True) for _number in range(LEAKED))
        for thread in started:
            thread.start()

    def join() -> None:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()

    statistics = CallStatistics()
    statistics.caller("plugin 'leaky'", lane_part("A"))("handle_instance", leak)
    statistics.caller("plugin 'tidy'", lane_part("B"))("handle_instance", join)
    yield statistics
    end.set()
    for thread in started:
        thread.join()


def test_the_plugin_whose_calls_started_the_threads_is_named(
    monkeypatch: pytest.MonkeyPatch, statistics: CallStatistics
) -> None:
    """The plugin is named with the approximate number of threads, also if a library started them.

    The other plugin is not named.
    """
    monkeypatch.setattr(leaked_threads, "MAX_PLUGIN_THREADS", 0)
    assert describe_leak(statistics, host_threads=0).endswith(f": about {LEAKED} started in calls of plugin 'leaky'")


def test_a_few_threads_are_not_reported(statistics: CallStatistics) -> None:
    """A small pool of threads is not a problem."""
    assert "" == describe_leak(statistics, host_threads=0)


def test_threads_that_no_plugin_started_are_reported_without_a_name(
    monkeypatch: pytest.MonkeyPatch, statistics: CallStatistics
) -> None:
    """Threads that were started outside of calls of plugins count as well."""
    monkeypatch.setattr(leaked_threads, "MAX_PLUGIN_THREADS", 0)
    assert describe_leak(CallStatistics(), host_threads=0).endswith(": none started in calls of plugins")
