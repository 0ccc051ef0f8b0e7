"""Find DICOM files (PS3.10) among the paths that a user names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from attrs import frozen


@frozen(kw_only=True)
class SkippedFile:
    """A file or folder that `find_dicom` did not return."""

    path: Path
    reason: str
    is_failure: bool  # True if the user named this path, or it cannot be read


def find_dicom(paths: Iterable[Path], on_skipped: Callable[[SkippedFile], None]) -> Iterator[Path]:
    """Yield the DICOM files (PS3.10) in `paths`, and those in folders of `paths`, sorted, without hidden entries."""
    for path in paths:
        if path.is_dir():
            yield from _search(path, on_skipped)
        elif skipped := _check(path, named=True):
            on_skipped(skipped)
        else:
            yield path


def _search(folder: Path, on_skipped: Callable[[SkippedFile], None]) -> Iterator[Path]:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as failure:
        on_skipped(SkippedFile(path=folder, reason=f"cannot be read: {failure.strerror}", is_failure=True))
        return
    for entry in entries:
        if entry.is_dir():
            if not entry.is_symlink():  # a link may point to a parent folder
                yield from _search(entry, on_skipped)
        elif skipped := _check(entry, named=False):
            on_skipped(skipped)
        else:
            yield entry


def _check(path: Path, *, named: bool) -> SkippedFile | None:
    if path.name.upper() == "DICOMDIR":
        return SkippedFile(path=path, reason="an index of files, not an instance", is_failure=named)
    if path.exists() and not path.is_file():  # opening a pipe would block
        return SkippedFile(path=path, reason="not a regular file", is_failure=named)
    try:
        with path.open("rb") as file:
            beginning = file.read(132)
    except OSError as failure:
        return SkippedFile(path=path, reason=f"cannot be read: {failure.strerror}", is_failure=True)
    return None if beginning[128:] == b"DICM" else SkippedFile(path=path, reason="not a DICOM file", is_failure=named)
