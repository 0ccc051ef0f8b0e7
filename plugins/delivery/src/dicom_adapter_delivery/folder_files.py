"""Files and folders that survive a power loss: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from attrs import frozen

from dicom_adapter import Permanent, Retriable

PIECE_BYTES = 1 << 18  # memory of one upload
PART = ".part"  # suffix of a temporary name
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})  # from network file systems that cannot sync a folder
HINTS = {  # next step for an operator, by error
    errno.ENOSPC: "free space there; the job continues on its own",
    errno.EDQUOT: "free space there, or raise the quota; the job continues on its own",
    errno.EACCES: "give the service's user the right to write there",
    errno.EPERM: "give the service's user the right to write there",
    errno.EROFS: "mount its file system with the right to write",
    errno.ENOENT: "create it, or check that its file system is mounted",
    errno.ESTALE: "check that its file system is mounted",
}


@frozen(kw_only=True)
class WrittenFile:
    """Size and checksum of a written file."""

    size_bytes: int
    sha256: str  # hexadecimal


@contextmanager
def writing(subject: str, folder: Path) -> Iterator[None]:
    """Turn each OSError into Retriable with the next step: an operator can fix the cause while the job waits."""
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or type(failure).__name__
        hint = f"; {HINTS[failure.errno]}" if failure.errno in HINTS else ""
        raise Retriable(f"{subject}: the folder {folder} cannot be used ({reason}){hint}") from failure


def copy_durably(subject: str, source: BinaryIO, target: Path, size_bytes: int, mode: int) -> WrittenFile:
    """Write a file under a temporary name and sync it; return its size and checksum. `publish` renames it.

    Raises Permanent if the length of the source is not `size_bytes`, Retriable if the source cannot be read, and
    OSError if the target cannot be written.
    """
    digest, written = hashlib.sha256(), 0
    with _create(target, mode) as file:
        while piece := _read(subject, source):
            digest.update(piece)
            file.write(piece)
            written += len(piece)
        if written != size_bytes:
            raise Permanent(f"{subject}: the stored file has {written} bytes where {size_bytes} were recorded")
        _sync(file)
    return WrittenFile(size_bytes=written, sha256=digest.hexdigest())


def write_json(path: Path, content: Mapping[str, Any], mode: int = PRIVATE_FILE) -> None:
    """Write or replace a JSON file. After a power loss, it is the old file or the new one."""
    temporary = path.with_name(f".{path.name}{PART}")
    temporary.unlink(missing_ok=True)
    with _create(temporary, mode) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
        _sync(file)
    publish(temporary, path)


def publish(temporary: Path, path: Path) -> None:
    """Rename a file or folder, and sync the folder that contains it."""
    temporary.rename(path)
    sync_folder(path.parent)
    if temporary.parent != path.parent:
        sync_folder(temporary.parent)


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append a line of JSON and sync it. Several threads may append at once.

    The line starts with a line break, so that it is not joined to a line that a crash cut off.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        os.write(descriptor, b"\n" + json.dumps(content).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the lines that `append_line` has completed."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in filter(None, lines):
        try:
            yield json.loads(line)
        except ValueError:
            continue  # cut off by a crash: its upload was not recorded in the ledger either


def make_folder(path: Path, mode: int = PRIVATE_FOLDER) -> None:
    """Create a folder with exactly these permissions, and sync the folder that contains it. It may exist already."""
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", str(path)) from None
        return
    set_permissions(path, mode)
    sync_folder(path.parent)


def set_permissions(folder: Path, mode: int) -> None:
    """Set the permissions of a folder, which mkdir may have reduced. Its group stays the inherited one (setgid)."""
    folder.chmod(mode | (folder.stat().st_mode & stat.S_ISGID))


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as failure:
        if failure.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _create(path: Path, mode: int) -> BinaryIO:
    descriptor = os.open(path, NEW_FILE, mode)
    try:
        if os.fstat(descriptor).st_mode & 0o777 != mode:
            os.fchmod(descriptor, mode)  # open applies the umask
        return os.fdopen(descriptor, "wb")
    except BaseException:
        os.close(descriptor)
        raise


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read(subject: str, source: BinaryIO) -> bytes:
    try:
        return source.read(PIECE_BYTES)
    except OSError as failure:
        raise Retriable(f"{subject}: reading the stored file failed ({type(failure).__name__})") from failure
