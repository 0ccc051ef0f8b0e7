"""Settings of the `folder` submitter."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Any

from attrs import Attribute, frozen

from dicom_adapter import setting

MODE = re.compile(r"7[0-7]{2}")


class FolderName(str, Enum):
    """How the folder of a job is named."""

    JOB = "job"  # the job's name, followed by its id
    ID = "id"  # the job's id only


# The docstring of a validator is shown as the rule in the reference of the settings.
def _mode(_instance: Any, _attribute: Attribute[str], value: str) -> None:
    """three octal digits, of which the first is 7"""
    if not MODE.fullmatch(value):
        raise ValueError('must be three octal digits, of which the first is 7, such as "750"')


@frozen(kw_only=True)
class FolderSettings:
    """The [submitters.<name>] table of `type = "folder"`."""

    path: Path = setting(
        help="Existing folder in which each job becomes a folder. The adapter does not create it, so that it writes "
        "nothing while the file system is not mounted.",
    )
    folder_name: FolderName = setting(
        default=FolderName.JOB,
        help="Name of a job's folder: `job` for the job's name followed by its id, `id` for its id only.",
    )
    attachments: bool = setting(
        default=True,
        help="If true, a job that delivers results also has the outputs that are not DICOM, such as PDF or JSON. The "
        "adapter cannot check whether they belong to the right patient.",
    )
    mode: str = setting(
        default="700",
        validator=_mode,
        help="Permissions of a job's folder as octal digits. Its files have the same permissions, except the right to "
        "execute.",
    )

    @property
    def folder_mode(self) -> int:
        """The permissions of a job's folder."""
        return int(self.mode, 8)

    @property
    def file_mode(self) -> int:
        """The permissions of a file."""
        return self.folder_mode & 0o666
