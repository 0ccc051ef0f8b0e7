"""Load structlog without rich, which it would use for coloured tracebacks: 6 MB of memory in each process.

Imported first in receiver, host and service processes. Code that needs rich can import it afterwards.
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
