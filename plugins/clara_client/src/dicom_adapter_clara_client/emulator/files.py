"""The files of one payload. Names keep their case; no name is both a file and a folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from dicom_adapter_clara_client.emulator.rules import Conflict, NotFound
from dicom_adapter_clara_client.emulator.values import PayloadFile
from dicom_adapter_clara_client.wire.codes import ClaraCode


class PayloadFiles:
    """The files of a payload, by name."""

    def __init__(self, files: Iterable[PayloadFile] = ()) -> None:
        self._files: dict[str, PayloadFile] = {}
        self._alike: defaultdict[str, set[str]] = defaultdict(set)  # names by their lower-case form
        self._folders: Counter[str] = Counter()  # number of files below each folder
        for file in files:
            self.put(file)

    def __iter__(self) -> Iterator[PayloadFile]:
        return iter(sorted(self._files.values(), key=lambda file: file.name))

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def check(self, name: str) -> None:
        """Raise Conflict if a file of this name would be inside another file, or replace a folder."""
        if name in self._folders or any(folder in self._files for folder in _folders(name)):
            raise Conflict(ClaraCode.FILE_NAME_TAKEN, "a name cannot be a file and a folder in one payload")

    def put(self, file: PayloadFile) -> None:
        """Add a file, or replace the file with the same name."""
        if file.name not in self._files:
            self._folders.update(_folders(file.name))
            self._alike[file.name.lower()].add(file.name)
        self._files[file.name] = file

    def find(self, name: str) -> PayloadFile:
        """Return the file of this name, compared without case; if several match, the exact match."""
        alike = self._alike.get(name.lower(), set())
        if not alike:
            raise NotFound(ClaraCode.NO_SUCH_FILE, "the payload has no file of this name")
        if len(alike) == 1:
            return self._files[next(iter(alike))]
        if name not in alike:
            raise NotFound(ClaraCode.NO_SUCH_FILE, "several files of the payload differ from this name only in case")
        return self._files[name]

    def drop(self, name: str) -> None:
        """Remove one file."""
        del self._files[name]
        self._alike[name.lower()].discard(name)
        self._folders -= Counter(_folders(name))  # this also removes folders without files


def _folders(name: str) -> list[str]:
    """Return the folders of a name, such as `a` and `a/b` for `a/b/c`."""
    segments = name.split("/")[:-1]
    return ["/".join(segments[: end + 1]) for end in range(len(segments))]
