"""Results of a job: the files of its payload that the pipeline has written, downloaded while they are read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from fnmatch import fnmatchcase
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, cast

from attrs import Attribute, field, frozen

from dicom_adapter import Output, Permanent, Retriable

INPUT = "input"  # folder of a payload with the uploaded instances
PIECE_BYTES = 1 << 18  # buffer of one download
MAX_FILES = 100_000  # in one payload; a longer list is an error of the platform
MAX_NAME_BYTES = 2048  # limit of a path in the REST API

RESULT_FILES_HELP = (
    "Results of a job: patterns of the names of files in its payload, relative to the payload's root, such as "
    '`"operators/dicom-writer/*"`. `*` matches any characters, also `/`. Files below `input/` are never results.'
)
FOLLOW_HELP = (
    "Follow jobs until they end on the platform, and collect their results. `false`: `submitted` is the last state of "
    "a job, and its instances are not kept for it after its start."
)
DELETE_PAYLOADS_HELP = (
    "If true, a job's payload, with its input and output, is deleted when the results are stored, or when a failed job "
    "is retried or cancelled. Set it only if nothing else reads payloads, such as a results service or a viewer of the "
    "platform."
)


# The docstring of a validator is shown as the rule in the reference of the settings.
def check_patterns(_instance: Any, _attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    """at least one pattern, without a leading `/`"""
    if not value or any(not pattern or pattern.startswith("/") for pattern in value):
        raise ValueError('must be a list of at least one pattern without a leading /, such as ["operators/writer/*"]')


@frozen(kw_only=True)
class ListedFile:
    """A file of a payload, as the platform lists it."""

    name: str = field(repr=False)  # as the platform names it; may contain a patient's id
    size_bytes: int


def results_of(
    subject: str,
    listed: Iterable[ListedFile],
    patterns: Iterable[str],
    download: Callable[[str, ListedFile], Generator[bytes, None, None]],
) -> list[Output]:
    """Return the listed files that match one of the patterns. `download` is called with a subject and a file.

    Raises Permanent for a name that is not a relative path, and Retriable for a name that occurs twice. No message has
    the name of a file, because it may contain a patient's id.
    """
    patterns = tuple(patterns)
    found: dict[str, Output] = {}
    for file in listed:
        name = _relative_name(subject, file.name)
        if name.startswith(f"{INPUT}/") or not any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        if name in found:
            raise Retriable(f"{subject}: the platform lists a file of the payload twice")
        found[name] = Output(name=name, open=_opener(f"{subject}: result {len(found) + 1}", file, download))
    return list(found.values())


def _relative_name(subject: str, name: str) -> str:
    """Return a name without a leading `/`, which some platforms add, and without empty parts."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    relative = "/".join(parts)
    long = len(relative.encode("utf-8", "replace")) > MAX_NAME_BYTES
    if not parts or ".." in parts or long or not relative.isprintable():
        raise Permanent(
            f"{subject}: the name of a file in the payload must be a path of at most {MAX_NAME_BYTES} printable "
            "characters without '..': change the pipeline"
        )
    return relative


def _opener(
    subject: str, file: ListedFile, download: Callable[[str, ListedFile], Generator[bytes, None, None]]
) -> Callable[[], BinaryIO]:
    def open_file() -> BinaryIO:
        raw = DownloadedFile(subject, download(subject, file), file.size_bytes)
        return cast(BinaryIO, BufferedReader(raw, PIECE_BYTES))

    return open_file


class DownloadedFile(RawIOBase):
    """A file that is downloaded while it is read. Raises Retriable if its size is not the listed size."""

    def __init__(self, subject: str, pieces: Generator[bytes, None, None], size_bytes: int) -> None:
        super().__init__()
        self._subject = subject
        self._source = pieces
        self._pieces: Iterator[bytes] = _checked(subject, pieces, size_bytes)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # the type that io passes
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """Stop the download."""
        if not self.closed:
            self._source.close()
        super().close()


def _checked(subject: str, pieces: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    """Yield the pieces. A listed size of 0 is not checked: a platform may omit sizes."""
    received = 0
    for piece in pieces:
        received += len(piece)
        if size_bytes and received > size_bytes:
            raise Retriable(f"{subject}: the platform sent more than the {size_bytes} bytes that it lists")
        yield piece
    if received < size_bytes:
        raise Retriable(f"{subject}: the platform sent only {received} of the {size_bytes} bytes that it lists")
