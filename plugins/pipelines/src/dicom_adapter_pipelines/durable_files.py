"""Files that are complete or absent after a crash or a power loss: temporary name, fsync, rename, fsync of folder."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

FILE_MODE = 0o600  # job folders contain patient data
PART = ".part"  # suffix of files that are being written


@contextmanager
def new_file(path: Path, mode: int = FILE_MODE) -> Iterator[BinaryIO]:
    """Write a file. It gets its name, and replaces an earlier file, only if the block ends without an error."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PART}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_file(path: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Write a small file at once."""
    with new_file(path, mode) as file:
        file.write(data)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Delete a folder with its contents, whatever their modes and depth; no link is followed. It may be missing."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if not os.path.lexists(path):
            return
        _remove_with_tools(path)
    except (OSError, RecursionError):
        _remove_with_tools(path)


def _remove_with_tools(path: Path) -> None:
    """Delete a tree that has folders without permissions, or is deeper than Python's stack, or is not a folder."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    subprocess.run(["chmod", "-R", "u+rwX", "--", path], capture_output=True, check=False)  # noqa: S603, S607 - own path
    done = subprocess.run(["rm", "-rf", "--", path], capture_output=True, check=False)  # noqa: S603, S607 - own path
    if done.returncode:
        raise OSError(f"{path} cannot be deleted")
