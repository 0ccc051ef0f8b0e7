"""Replays the system calls of a service on the model of a disk, and finds the moments for a power loss."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import PurePosixPath

from attrs import define, field, frozen
from pydicom.filereader import read_dataset

from power_loss import strace
from power_loss.disk import Disk, Sync
from power_loss.strace import Call

P_DATA_TF = 0x04  # PS3.8 section 9.3.5
COMMAND, LAST = 1, 2  # bits of the message control header (PS3.8 annex E.2)
C_STORE_RSP = 0x8001  # PS3.7 table E.1-1
SUCCESS = 0x0000


@frozen(kw_only=True)
class Moment:
    """A moment at which the power fails."""

    when: str
    acknowledged: Mapping[str, int]  # number of success responses sent for each SOP Instance UID


@define
class Responses:
    """The bytes that the acceptor sent on one connection, and the C-STORE responses in them (PS3.8 section 9.3.5)."""

    _bytes: bytes = b""
    _command: bytes = b""

    def feed(self, sent: bytes) -> list[str]:
        """Return the SOP Instance UIDs whose success response is complete with these bytes."""
        self._bytes += sent
        uids = []
        while len(self._bytes) >= 6 and len(self._bytes) >= (end := 6 + int.from_bytes(self._bytes[2:6], "big")):
            pdu, self._bytes = self._bytes[:end], self._bytes[end:]
            if pdu[0] == P_DATA_TF:
                uids += [uid for command in self._commands(pdu[6:]) if (uid := _acknowledged(command))]
        return uids

    def _commands(self, values: bytes) -> Iterator[bytes]:
        """Return the command sets that end in these presentation data values (PS3.8 section 9.3.5.1)."""
        while values:
            length, _context, header = struct.unpack_from(">IBB", values)
            if header & COMMAND:
                self._command += values[6 : 4 + length]
            if header == COMMAND | LAST:
                yield self._command
                self._command = b""
            values = values[4 + length :]


def _acknowledged(command: bytes) -> str | None:
    elements = read_dataset(BytesIO(command), is_implicit_VR=True, is_little_endian=True)
    is_success = (elements.CommandField, elements.Status) == (C_STORE_RSP, SUCCESS)
    return str(elements.AffectedSOPInstanceUID) if is_success else None


@define
class Replay:
    """A log of system calls, and the disk below `root` on which they are replayed."""

    root: PurePosixPath
    is_synced: Callable[[PurePosixPath], bool] = lambda _path: True  # syncs of other paths have no effect
    disk: Disk = field(factory=Disk)
    acknowledged: Counter[str] = field(factory=Counter)
    _connections: dict[str, Responses] = field(factory=dict)
    _syncs: dict[int, Sync] = field(factory=dict)

    def moments(self, calls: Iterable[Call], *, after_changes: bool = False) -> Iterator[Moment]:
        """Replay the calls. Yield before each sync takes effect, before each success is sent, and at the end.

        Between these moments nothing becomes durable, and nothing is acknowledged. With `after_changes`, yield also
        after each change of a file or folder: these are the states that processes leave when all of them are killed.
        """
        for call in calls:
            if call.name in strace.SYNCS:
                yield from self._sync(call)
            elif call.result is None:
                yield from self._acknowledge(call)
            elif call.result >= 0 and self._change(call) and after_changes:
                yield self._now(f"after {call.name}")
        yield self._now("the end")

    def _now(self, when: str) -> Moment:
        return Moment(when=when, acknowledged=dict(self.acknowledged))

    def _sync(self, call: Call) -> Iterator[Moment]:
        path = self._below_root(call.descriptors[0])
        if path is None or not self.is_synced(path):
            return
        if call.result is None:
            self._syncs[call.pid] = self.disk.sync(path)
        else:
            yield self._now(f"before {call.name} of {path} returns")
            sync = self._syncs.pop(call.pid)
            if call.result == 0:
                sync.finish()

    def _acknowledge(self, call: Call) -> Iterator[Moment]:
        if call.name not in strace.WRITES or not (connection := call.descriptors[0]).startswith("TCP:"):
            return
        # Counted when the call begins: from then on the peer may have received it.
        uids = self._connections.setdefault(connection, Responses()).feed(call.data)
        self.acknowledged.update(uids)
        if uids:
            yield self._now(f"success {sum(self.acknowledged.values())} is sent")

    def _change(self, call: Call) -> bool:
        """Replay a call that is neither a sync nor a message. Return whether it concerns the disk."""
        if call.name in (*strace.WRITES, *strace.TRUNCATES, *strace.PUNCHES):
            path = self._below_root(call.descriptors[0])
            if path is not None:
                self._change_content(call, path)
            return path is not None
        paths = [path for text in call.paths if (path := self._below_root(text)) is not None]
        if paths:
            self._change_names(call, paths)
        return bool(paths)

    def _change_content(self, call: Call, path: PurePosixPath) -> None:
        if call.name in strace.TRUNCATES:
            self.disk.truncate(path, call.last_number)
        elif call.others.startswith(", FALLOC_FL_KEEP_SIZE, "):
            pass  # blocks are allocated behind the end of the file: its content does not change
        elif call.name in strace.PUNCHES:
            assert "FALLOC_FL_PUNCH_HOLE" in call.others, f"unexpected arguments of {call.name}: {call.others}"
            self.disk.punch(path, call.number(-2), call.number(-1))
        else:
            # write(2) writes at the descriptor's position. It is only used to fill new files from their beginning, and
            # to append lines to journals.
            place = -2 if call.name == "pwritev2" else -1  # the flags follow the offset
            offset = call.number(place) if call.name.startswith("pwrite") else None
            self.disk.write(path, call.data[: call.result], offset)

    def _change_names(self, call: Call, paths: list[PurePosixPath]) -> None:
        if call.name in strace.FOLDERS:
            self.disk.make_folder(paths[0])
        elif call.name in strace.REMOVES:
            self.disk.remove(paths[0])
        elif call.name in strace.RENAMES:
            self.disk.rename(*paths)
        else:
            self._open(call, paths[0])

    def _open(self, call: Call, path: PurePosixPath) -> None:
        if "O_CREAT" in call.others and not self.disk.exists(path):
            self.disk.make_file(path)
        if "O_TRUNC" in call.others:
            self.disk.truncate(path, 0)

    def _below_root(self, path: str | PurePosixPath) -> PurePosixPath | None:
        """Return the path relative to the root. None for other paths and SQLite's shared memory, which is recreated."""
        path = PurePosixPath(path)
        if not path.is_relative_to(self.root) or path.name.endswith("-shm"):
            return None
        return path.relative_to(self.root)
