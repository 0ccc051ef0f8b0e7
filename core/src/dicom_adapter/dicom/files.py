"""Finding DICOM files (PS3.10) in what a user names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from attrs import frozen


@frozen(kw_only=True)
class Skipped:
    """A file or folder that `find_dicom` did not take."""

    path: Path
    reason: str
    wanted: bool  # it was named by the user, or nobody can tell what it is: that it is not sent is a failure


def find_dicom(paths: Iterable[Path], on_skipped: Callable[[Skipped], None]) -> Iterator[Path]:
    """The DICOM files (PS3.10) among `paths` and in the folders among them, sorted; hidden entries are passed over."""
    for path in paths:
        if path.is_dir():
            yield from _search(path, on_skipped)
        elif skipped := _judge(path, named=True):
            on_skipped(skipped)
        else:
            yield path


def _search(folder: Path, on_skipped: Callable[[Skipped], None]) -> Iterator[Path]:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as failure:
        on_skipped(Skipped(path=folder, reason=f"cannot be read: {failure.strerror}", wanted=True))
        return
    for entry in entries:
        if entry.is_dir():
            if not entry.is_symlink():  # a link may lead back up
                yield from _search(entry, on_skipped)
        elif skipped := _judge(entry, named=False):
            on_skipped(skipped)
        else:
            yield entry


def _judge(path: Path, *, named: bool) -> Skipped | None:
    if path.name.upper() == "DICOMDIR":
        return Skipped(path=path, reason="an index of files, not an instance", wanted=named)
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        return Skipped(path=path, reason="not a regular file", wanted=named)
    try:
        with path.open("rb") as file:
            beginning = file.read(132)
    except OSError as failure:
        return Skipped(path=path, reason=f"cannot be read: {failure.strerror}", wanted=True)
    return None if beginning[128:] == b"DICM" else Skipped(path=path, reason="not a DICOM file", wanted=named)
