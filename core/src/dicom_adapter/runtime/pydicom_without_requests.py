"""Import pydicom without requests, with which pydicom can download test files. This saves 7 MB and 90 ms.

This module is imported first in receiver and host processes. Code that needs requests can import it afterwards.
"""

from __future__ import annotations

from dicom_adapter.runtime.hidden_modules import hidden_modules

with hidden_modules("requests"):
    import pydicom  # noqa: F401 - imported for its side effect
