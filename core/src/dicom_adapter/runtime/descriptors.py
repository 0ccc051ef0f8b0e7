"""Limits of file descriptors of a process. Connections, files and databases share them."""

from __future__ import annotations

import resource

# Containers may allow a thousand times more. Some libraries allocate memory for each descriptor that is allowed.
MAX_DESCRIPTORS = 1_048_576


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard limit, for this process and its children. Return the limit.

    The soft limit is often 1024, because programs that use select(2) cannot use higher descriptors.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError):  # the system has a lower maximum than the hard limit, such as macOS
        return soft
    return target


def max_descriptors() -> int:
    """Return the number of descriptors that this process may have open."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
