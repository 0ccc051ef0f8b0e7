"""A model of a disk with power losses: synced changes survive, and a `Fate` selects the other changes that survive.

Every file and every folder is a list of changes, some of which are synced. POSIX guarantees only this much: fsync of
a file makes its content durable, fsync of a folder its names, and neither includes the other (fsync(2)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from attrs import define, evolve, field, frozen

Change: TypeAlias = "Write | Truncate | Punch"
Tree: TypeAlias = Mapping[str, "bytes | None"]  # contents of files by path below the root, None for folders
# (changes, number of synced changes) → surviving changes
Fate: TypeAlias = Callable[[Sequence[Any], int], Sequence[Any]]


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
    """A hole in a file: zeros that do not change its size."""

    offset: int
    length: int


@frozen
class Entry:
    """From this change on, a name in a folder refers to this node, or to no node (None)."""

    name: str
    node: Node | None


@define(eq=False)
class File:
    """The changes of a file's content."""

    changes: list[Change] = field(factory=list)
    synced: int = 0


@define(eq=False)
class Folder:
    """The changes of a folder's names."""

    changes: list[Entry] = field(factory=list)
    synced: int = 0


Node: TypeAlias = "File | Folder"


@frozen
class Sync:
    """An fsync in progress. It covers the changes that were complete when it began."""

    node: Node
    covers: int

    def finish(self) -> None:
        """Complete the sync successfully: the changes that it covers are durable."""
        self.node.synced = max(self.node.synced, self.covers)


class Disk:
    """A tree of files and folders. Paths are relative to its root, which exists durably from the beginning."""

    def __init__(self) -> None:
        self._root = Folder()

    def exists(self, path: PurePosixPath) -> bool:
        return path.name in names(self._folder(path.parent).changes)

    def make_folder(self, path: PurePosixPath) -> None:
        self._enter(path, Folder())

    def make_file(self, path: PurePosixPath) -> None:
        self._enter(path, File())

    def write(self, path: PurePosixPath, data: bytes, offset: int | None = None) -> None:
        """Write at an offset; None appends."""
        file = self._file(path)
        file.changes.append(Write(len(content(file.changes)) if offset is None else offset, data))

    def truncate(self, path: PurePosixPath, size: int) -> None:
        self._file(path).changes.append(Truncate(size))

    def punch(self, path: PurePosixPath, offset: int, length: int) -> None:
        self._file(path).changes.append(Punch(offset, length))

    def rename(self, old: PurePosixPath, new: PurePosixPath) -> None:
        """Rename a node. Two folders have two changes, each durable when its folder is synced."""
        self._enter(new, self._find(old))
        self.remove(old)

    def remove(self, path: PurePosixPath) -> None:
        self._enter(path, None)

    def sync(self, path: PurePosixPath) -> Sync:
        """Begin an fsync of a file or a folder. The sync has no effect until it is finished."""
        node = self._find(path)
        return Sync(node, len(node.changes))

    def after_power_loss(self, *, names: Fate, data: Fate) -> Tree:
        """Return the content after a power loss. `names` is the fate of folders, `data` that of files."""
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
    """Return the bytes of a file after these changes. Gaps between writes are zero."""
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
    """Return the entries of a folder after these changes."""
    last = {entry.name: entry.node for entry in changes}
    return {name: node for name, node in last.items() if node is not None}


def _walk(folder: Folder, path: str, of_names: Fate, of_data: Fate) -> Iterator[tuple[str, bytes | None]]:
    """Yield each folder before its entries."""
    for name, node in names(of_names(folder.changes, folder.synced)).items():
        if isinstance(node, Folder):
            yield path + name, None
            yield from _walk(node, f"{path}{name}/", of_names, of_data)
        else:
            yield path + name, content(of_data(node.changes, node.synced))


# --- fates ----------------------------------------------------------------------------------------------------------


def only_synced(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """Keep the synced changes only: the pessimistic interpretation of POSIX."""
    return changes[:synced]


def everything(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """Keep all changes, as after the end of a process."""
    return changes


def every_other_one(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """Keep every other unsynced change, as if several threads wrote to one file."""
    return [*changes[:synced], *changes[synced:][1::2]]


def first_ones(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """Keep the first half of the unsynced changes."""
    return changes[: synced + (len(changes) - synced) // 2]


def last_one_torn(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """Keep all changes but the second half of the last write."""
    if len(changes) == synced or not isinstance(changes[-1], Write):
        return changes
    last = changes[-1]
    return [*changes[:-1], evolve(last, data=last.data[: len(last.data) // 2])]


def only_last_one(changes: Sequence[Any], synced: int) -> Sequence[Any]:
    """Keep the last change and lose all other unsynced changes."""
    return [*changes[:synced], *changes[synced:][-1:]]
