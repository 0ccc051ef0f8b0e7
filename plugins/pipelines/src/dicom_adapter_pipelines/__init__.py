"""Submitters that run a command or a container for each job, on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dicom_adapter import Submitter, hookimpl


@hookimpl
def dicom_adapter_submitters() -> Iterable[type[Submitter[Any]]]:
    """Register the submitters of this plugin."""
    # Imported only when needed: the runner of each job imports this package, too, and needs little of it.
    from dicom_adapter_pipelines.command import CommandSubmitter
    from dicom_adapter_pipelines.container.submitter import ContainerSubmitter

    return [CommandSubmitter, ContainerSubmitter]
