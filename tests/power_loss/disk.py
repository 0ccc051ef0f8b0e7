"""A disk whose power fails: of what was written, it keeps what was synced, and of the rest whatever bad luck leaves.

Every file and every folder is the list of its changes, and how many of them are synced. POSIX promises this much and no
more: fsync of a file makes its content durable, fsync of a folder its names, and neither does the other's work
(fsync(2)). Which of the unsynced changes are there after the power has failed is up to a `Fate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from attrs import define, evolve, field, frozen

Change: TypeAlias = "Write | Truncate | Punch"
Tree: TypeAlias = Mapping[str, "bytes | None"]  # contents of files by path below the root, None for folders
Fate: TypeAlias = Callable[[Sequence[Any], int], Sequence[Any]]  # (changes, how many are synced) → what survives


@frozen
class Write:
    """Bytes of a file, from an offset on."""

    offset: int
    data: bytes


@frozen
class Truncate:
    """Another size of a file."""

    size: int


@frozen
class Punch:
    """A hole in a file: zeros, which do not change its size."""

    offset: int
    length: int


@frozen
class Entry:
    """A name in a folder means this from now on; None: nothing."""

    name: str
    node: Node | None


@define(eq=False)
class File:
    """What happened to its content."""

    changes: list[Change] = field(factory=list)
    synced: int = 0


@define(eq=False)
class Folder:
    """What happened to its names."""

    changes: list[Entry] = field(factory=list)
    synced: int = 0


Node: TypeAlias = "File | Folder"


@frozen
class Sync:
    """An fsync under way. It covers the changes that were complete when it began."""

    node: Node
    covers: int

    def finish(self) -> None:
        """It returned without error: what it covers is durable."""
        self.node.synced = max(self.node.synced, self.covers)


class Disk:
    """A tree of files and folders. Paths are relative to its root, which is there from the beginning, durably."""

    def __init__(self) -> None:
        self._root = Folder()

    def exists(self, path: PurePosixPath) -> bool:
        return path.name in names(self._folder(path.parent).changes)

    def make_folder(self, path: PurePosixPath) -> None:
        self._enter(path, Folder())

    def make_file(self, path: PurePosixPath) -> None:
        self._enter(path, File())

    def write(self, path: PurePosixPath, data: bytes, offset: int | None = None) -> None:
        """`offset` None appends."""
        file = self._file(path)
        file.changes.append(Write(len(content(file.changes)) if offset is None else offset, data))

    def truncate(self, path: PurePosixPath, size: int) -> None:
        self._file(path).changes.append(Truncate(size))

    def punch(self, path: PurePosixPath, offset: int, length: int) -> None:
        self._file(path).changes.append(Punch(offset, length))

    def rename(self, old: PurePosixPath, new: PurePosixPath) -> None:
        """Two changes when it leads to another folder: each is as durable as its folder."""
        self._enter(new, self._find(old))
        self.remove(old)

    def remove(self, path: PurePosixPath) -> None:
        self._enter(path, None)

    def sync(self, path: PurePosixPath) -> Sync:
        """Begin an fsync of a file or a folder; it does nothing until it is finished."""
        node = self._find(path)
        return Sync(node, len(node.changes))

    def after_power_loss(self, *, names: Fate, data: Fate) -> Tree:
        """What is found when the power is back. `names`: the fate of folders, `data`: that of files."""
        return dict(_walk(self._root, "", names, data))

    def _find(self, path: PurePosixPath) -> Node:
        node: Node = self._root
        for part in path.parts:
            assert isinstance(node, Folder), f"{path} leads through a file"
            node = names(node.changes)[part]
        return node

    def _folder(self, path: PurePosixPath) -> Folder:
        node = self._find(path)
        assert isinstance(node, Folder), f"{path} is a file"
        return node

    def _file(self, path: PurePosixPath) -> File:
        node = self._find(path)
        assert isinstance(node, File), f"{path} is a folder"
        return node

    def _enter(self, path: PurePosixPath, node: Node | None) -> None:
        self._folder(path.parent).changes.append(Entry(path.name, node))


def content(changes: Sequence[Change]) -> bytes:
    """A file's bytes after these changes; what was never written between others is zero."""
    data = bytearray()
    for change in changes:
        if isinstance(change, Punch):
            end = min(len(data), change.offset + change.length)
            data[change.offset : end] = bytes(max(0, end - change.offset))
            continue
        end = change.size if isinstance(change, Truncate) else change.offset + len(change.data)
        data.extend(bytes(max(0, end - len(data))))
        if isinstance(change, Truncate):
            del data[end:]
        else:
            data[change.offset : end] = change.data
    return bytes(data)


def names(changes: Sequence[Entry]) -> dict[str, Node]:
    """A folder's entries after these changes."""
    last = {entry.name: entry.node for entry in changes}
    return {name: node for name, node in last.items() if node is not None}


def _walk(folder: Folder, path: str, of_names: Fate, of_data: Fate) -> Iterator[tuple[str, bytes | None]]:
    """A folder comes before what is in it."""
    for name, node in names(of_names(folder.changes, folder.synced)).items():
        if isinstance(node, Folder):
            yield path + name, None
            yield from _walk(node, f"{path}{name}/", of_names, of_data)
        else:
            yield path + name, content(of_data(node.changes, node.synced))


# --- fates ----------------------------------------------------------------------------------------------------------


def only_synced(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """The pessimistic reading of POSIX: nothing survives that was not synced."""
    return changes[:synced]


def everything(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """All was on its way already; also what the end of a process leaves behind."""
    return changes


def every_other_one(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """Of what several have written to one file, the second, the fourth, and so on survive."""
    return [*changes[:synced], *changes[synced:][1::2]]


def first_ones(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """Half of what was not synced was on its way; the rest came too late."""
    return changes[: synced + (len(changes) - synced) // 2]


def last_one_torn(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """All survives but the second half of the last write."""
    if len(changes) == synced or not isinstance(changes[-1], Write):
        return changes
    last = changes[-1]
    return [*changes[:-1], evolve(last, data=last.data[: len(last.data) // 2])]


def only_last_one(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """The last change overtook all others that were not synced."""
    return [*changes[:synced], *changes[synced:][-1:]]
