"""Import structlog without rich, which structlog uses for coloured tracebacks. This saves 6 MB in each process.

This module is imported first in receiver, host and service processes. Code that needs rich can import it afterwards.
"""

from __future__ import annotations

import sys

_is_hidden = "rich" not in sys.modules
if _is_hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]  # so that its import fails, as if it were not installed
try:
    import structlog  # noqa: F401 - imported for its side effect
finally:
    if _is_hidden:
        del sys.modules["rich"]
