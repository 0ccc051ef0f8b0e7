"""Import structlog without rich, which structlog uses for coloured tracebacks. This saves 6 MB in each process.

This module is imported first in receiver, host and service processes. Code that needs rich can import it afterwards.
"""

from __future__ import annotations

from dicom_adapter.runtime.hidden_modules import hidden_modules

with hidden_modules("rich"):
    import structlog  # noqa: F401 - imported for its side effect
