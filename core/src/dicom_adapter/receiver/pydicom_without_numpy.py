"""Import pydicom without numpy, with which pydicom decodes pixels. A receiver decodes none. This saves 20 MB or more.

The host imports pydicom with numpy, if it is installed, because job processors may decode pixels.
"""

from __future__ import annotations

from dicom_adapter.runtime.hidden_modules import hidden_modules

with hidden_modules("numpy"):
    from dicom_adapter.runtime import pydicom_without_requests  # noqa: F401 - imported for its side effect
