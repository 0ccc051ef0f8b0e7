"""The AE Title Job Processor: group instances by study or patient, submit jobs after a quiet time."""

from __future__ import annotations

from typing import Any

from dicom_adapter import JobProcessorBase, hookimpl


@hookimpl
def dicom_adapter_processors() -> list[type[JobProcessorBase[Any]]]:
    """Register `processor = "aetitle"`, the default for an AE title without `processor`."""
    # Imported here because pydicom takes time and memory: only processes that use processors load pydicom.
    from dicom_adapter_aetitle.processor import AeTitleJobProcessor

    return [AeTitleJobProcessor]
