"""The user that runs a command, and its access to a job folder."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from dicom_adapter import Permanent

ENTER = 0o711  # mode of the folder of all jobs: the user can enter its job folder, and not list the others


def find_user(user: str) -> pwd.struct_passwd:
    """Return the account of a user by name or number. Raises KeyError."""
    return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)


def check_user(user: str) -> pwd.struct_passwd:
    """Return the account of a user. Raises Permanent if there is none, or if the service cannot act as it."""
    try:
        account = find_user(user)
    except KeyError as failure:
        raise Permanent(
            f"user = {user!r} is not a user of this machine: create the user or correct the name"
        ) from failure
    if os.geteuid() not in (0, account.pw_uid):
        raise Permanent(f"user = {user!r} needs a service that runs as root: omit the setting, or change the service")
    return account


def grant(job: Path, user: str) -> None:
    """Allow a user to enter a job folder, to read job.json, and to write output/ and work/; no other user can."""
    if not user or os.geteuid() != 0:
        return
    account = check_user(user)
    job.parent.chmod(ENTER)
    os.chown(job, -1, account.pw_gid)
    job.chmod(0o710)
    os.chown(job / "job.json", -1, account.pw_gid)
    (job / "job.json").chmod(0o640)
    for name in ("output", "work"):
        os.chown(job / name, account.pw_uid, account.pw_gid)


def unreachable_for(user: str, folder: Path) -> Path | None:
    """Return the outermost folder above the job folders that a user cannot enter; None if there is none."""
    account = find_user(user)
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    for parent in [*reversed(folder.absolute().parents), folder.absolute()]:
        try:
            info = parent.stat()
        except OSError:
            return None  # it does not exist yet
        needed = stat.S_IXOTH
        if info.st_gid in groups:
            needed = stat.S_IXGRP
        if info.st_uid == account.pw_uid:
            needed = stat.S_IXUSR
        if account.pw_uid and not info.st_mode & needed:
            return parent
    return None
