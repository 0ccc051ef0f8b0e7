"""The name of the operator who runs a command, for events."""

from __future__ import annotations

import os
import pwd


def operator_name() -> str:
    """Return the name of the user of this process, independent of the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # the user database has no entry for this user, which is common in containers
        return f"uid {os.getuid()}"
