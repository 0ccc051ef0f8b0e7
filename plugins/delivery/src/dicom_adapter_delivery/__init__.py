"""Submitters that send results of pipelines, or received instances, to DICOM nodes, DICOMweb servers and folders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dicom_adapter import Submitter, hookimpl


@hookimpl
def dicom_adapter_submitters() -> Iterable[type[Submitter[Any]]]:
    """Register the submitters of this plugin."""
    # Imported only when needed, because the libraries of these submitters take time and memory.
    from dicom_adapter_delivery.dicom_submitter import DicomSubmitter
    from dicom_adapter_delivery.dicomweb_submitter import DicomwebSubmitter
    from dicom_adapter_delivery.folder_submitter import FolderSubmitter

    return [DicomSubmitter, DicomwebSubmitter, FolderSubmitter]
