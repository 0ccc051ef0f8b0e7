"""The files below a job's output folder. Nothing outside of this folder is opened, whatever the command put into it.

Folders and files are opened relative to the folder that contains them, without following links, and checked after they
were opened. Only regular files with a single name are outputs: a hard link may be a second name of any other file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from attrs import frozen

MAX_DEPTH = 32  # levels of folders, when outputs are collected
MAX_MEASURED_DEPTH = 200  # levels of folders, when sizes are measured: each level needs a file descriptor
MAX_FILES = 100_000  # far more than the instances of a large study
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: the opening of a FIFO must not wait for a writer.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOCTTY", 0)


class OutputRefused(Exception):
    """The output contains something that is not collected. The message has no name of a file; `name` has it."""

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(problem)
        self.name = name  # chosen by the command, so it may contain patient data: only for the log of the job


@frozen(kw_only=True)
class OutputFile:
    """One regular file below the output folder."""

    name: str  # relative path with "/"
    size_bytes: int


def list_outputs(folder: Path, ignored: tuple[str, ...] = ()) -> list[OutputFile]:
    """Return the outputs in the order of their names, without the `ignored` ones. Raises OutputRefused, OSError."""
    found: list[OutputFile] = []
    with _opened_folder(str(folder)) as top:
        for name, info in _walk(top, "", MAX_DEPTH):
            problem = _problem(name, info)
            if problem:
                raise OutputRefused(problem, name)
            if name not in ignored:
                found.append(OutputFile(name=name, size_bytes=info.st_size))
            if len(found) > MAX_FILES:
                raise OutputRefused(f"the output has more than {MAX_FILES} files")
    return sorted(found, key=lambda file: file.name)


def open_output(folder: Path, name: str) -> BinaryIO:
    """Open one output by the name that `list_outputs` returned. Raises OutputRefused, OSError."""
    *parents, last = name.split("/")
    with _opened_folder(str(folder)) as top:
        current = os.dup(top)
        try:
            for parent in parents:
                following = os.open(parent, FOLDER_FLAGS, dir_fd=current)
                os.close(current)
                current = following
            descriptor = os.open(last, FILE_FLAGS, dir_fd=current)
        finally:
            os.close(current)
    problem = _problem(name, os.fstat(descriptor))
    if problem:
        os.close(descriptor)
        raise OutputRefused(problem, name)
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def measure(folder: Path) -> int:
    """Return the bytes of all files below a folder: the larger of their length and their space on the disk.

    Files that cannot be read or disappear meanwhile are not counted. Raises OutputRefused for a tree that is too deep.
    """
    try:
        with _opened_folder(str(folder)) as top:
            files = _walk(top, "", MAX_MEASURED_DEPTH, skip_errors=True)
            return sum(max(info.st_size, info.st_blocks * 512) for _name, info in files)
    except OSError:
        return 0


def _problem(name: str, info: os.stat_result) -> str:
    if stat.S_ISLNK(info.st_mode):
        return "the output contains a symbolic link, and links are not followed"
    if not stat.S_ISREG(info.st_mode):
        return f"the output contains {_kind(info.st_mode)}, and only regular files are collected"
    if info.st_nlink != 1:
        return "the output contains a hard link, a second name of another file; copy the file instead"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the output contains a file whose name is not UTF-8"
    return ""


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "a special file")


@contextmanager
def _opened_folder(path: str, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, FOLDER_FLAGS, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _walk(folder: int, prefix: str, levels: int, *, skip_errors: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder that is not a folder itself, at most `levels` folders down."""
    if not levels:
        raise OutputRefused("the output has too many nested folders", prefix)
    for name in os.listdir(folder):
        try:
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                yield prefix + name, info
                continue
            with _opened_folder(name, folder) as inner:
                yield from _walk(inner, f"{prefix}{name}/", levels - 1, skip_errors=skip_errors)
        except OSError:
            if not skip_errors:
                raise
