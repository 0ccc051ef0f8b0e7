"""Report of leaked threads. A leaked thread cannot be stopped, but the report names the plugin that started it."""

from __future__ import annotations

import threading

from dicom_adapter.plugins.measured import CallStatistics

MAX_PLUGIN_THREADS = 200  # number of threads that plugins may own; more threads are reported
MAX_SHOWN = 3  # number of plugins in the description


def describe_leak(statistics: CallStatistics, host_threads: int) -> str:
    """Return a description of the plugins that leak threads, or "" if the number of threads is not too high.

    `host_threads` is the number of threads of the host itself. A thread that starts while several plugins are called
    counts for each of them.
    """
    count = threading.active_count()
    limit = host_threads + MAX_PLUGIN_THREADS
    if count <= limit:
        return ""
    leaks = [
        f"about {number} started in calls of {plugin}" for plugin, number in statistics.leaked_threads()[:MAX_SHOWN]
    ]
    return (
        f"this process has {count} threads, more than {limit}: {'; '.join(leaks) or 'none started in calls of plugins'}"
    )
