"""Loads structlog without rich, which it would use for tracebacks in colour: 6 MB of memory in each process.

Imported before anything else by processes that there are several of. Who wants rich itself can import it afterwards.
"""

from __future__ import annotations

import sys

_is_hidden = "rich" not in sys.modules
if _is_hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]  # as if it were not installed
try:
    import structlog  # noqa: F401 - it is loaded
finally:
    if _is_hidden:
        del sys.modules["rich"]
