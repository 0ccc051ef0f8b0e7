"""Threads that plugins leave behind: they cannot be ended from outside, but in whose calls they began can be told."""

from __future__ import annotations

import threading

from dicom_adapter.plugins.measured import Calls

MOST_OF_PLUGINS = 200  # threads beyond the host's own that nobody minds
SHOWN = 3  # plugins


def describe_leak(calls: Calls, own: int) -> str:
    """Which plugins have left how many threads behind, when there are too many; "" when there are not.

    `own`: threads of the host itself. What several plugins begin at the same moment counts for each of them.
    """
    count = threading.active_count()
    if count <= own + MOST_OF_PLUGINS:
        return ""
    left = [f"about {number} began in calls of {plugin}" for plugin, number in calls.left_threads()[:SHOWN]]
    whose = "; ".join(left) or "none began in calls of plugins"
    return f"this process has {count} threads, more than {own + MOST_OF_PLUGINS}: {whose}"
