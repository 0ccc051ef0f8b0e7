"""Options for strace(1), and its log parsed into system calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from attrs import evolve, frozen

OPENS = ("open", "openat")
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendto", "sendmsg")
TRUNCATES = ("ftruncate",)
PUNCHES = ("fallocate",)
RENAMES = ("rename", "renameat", "renameat2")
REMOVES = ("unlink", "unlinkat", "rmdir")
FOLDERS = ("mkdir", "mkdirat")
SYNCS = ("fsync", "fdatasync")  # sync_file_range guarantees nothing
CALLS = (*OPENS, *WRITES, *TRUNCATES, *PUNCHES, *RENAMES, *REMOVES, *FOLDERS, *SYNCS)

COMMAND = (
    "strace",
    "--daemonize",  # the traced program stays the child of the process that starts it
    "--follow-forks",
    "--seccomp-bpf",  # stop at these calls only
    "--quiet=attach,exit,personality,thread-execve",
    "--signal=none",
    "--strings-in-hex=all",
    "--string-limit=100000000",
    "--no-abbrev",
    "--decode-fds=path,socket",  # descriptors as 7</path/of/the/file>
    # `?`: ignore a call that the architecture does not have.
    "--trace=" + ",".join(f"?{name}" for name in CALLS),
)

BEGUN = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<arguments>.*?)(?: <unfinished \.\.\.>|\) += (?P<result>-?\d+).*)")
ENDED = re.compile(r"(?P<pid>\d+) +<\.\.\. \w+ resumed>.*\) += (?P<result>-?\d+).*")
NEVER_ENDED = re.compile(r".* = \?.*")  # the process ended first, or the call is restarted
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
DESCRIPTOR = re.compile(r"(?:\d+|AT_FDCWD)<([^>]*)>(\(deleted\))?")


@frozen(kw_only=True)
class Call:
    """A system call, at its beginning (`result` None) or at its end."""

    pid: int  # id of the thread
    name: str
    descriptors: Sequence[str]  # a path, or a text such as TCP:[…]; empty for a file without a name
    strings: Sequence[bytes]  # paths, or written data
    others: str  # the other arguments: flags and numbers
    result: int | None = None

    @property
    def data(self) -> bytes:
        """Return the written data."""
        return b"".join(self.strings)

    @property
    def paths(self) -> list[PurePosixPath]:
        """Return the paths among the arguments. A relative path starts at the folder of its descriptor."""
        folders = self.descriptors or ["", ""]
        return [PurePosixPath(folder, os.fsdecode(text)) for folder, text in zip(folders, self.strings, strict=False)]

    @property
    def last_number(self) -> int:
        """Return the last argument: an offset or a size."""
        return self.number(-1)

    def number(self, place: int) -> int:
        """Return a numeric argument. `place` counts from the end, for example -1."""
        return int(self.others.split(", ")[place])

    @property
    def is_harmless(self) -> bool:
        """Return whether the call opens a file without changing it (most calls)."""
        return self.name in OPENS and "O_CREAT" not in self.others and "O_TRUNC" not in self.others


def why_not() -> str:
    """Return the reason why tracing is impossible, or an empty text."""
    if shutil.which(COMMAND[0]) is None:
        return "strace is not installed"
    probe = subprocess.run([*COMMAND, "--output=/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"strace cannot trace here: {probe.stderr.strip()}" if probe.returncode else ""


def read(log: Iterable[str]) -> Iterator[Call]:
    """Return the calls of all threads as strace recorded them: each call twice, at its beginning and at its end.

    strace stops a thread at the beginning and at the end of each call until it has recorded it. If a call waited for
    the lock of another call, the log has the end of the other call before the beginning of the waiting call.
    """
    unfinished: dict[str, Call] = {}
    for line in log:
        if ended := ENDED.fullmatch(line):
            yield evolve(unfinished.pop(ended["pid"]), result=int(ended["result"]))
        elif begun := BEGUN.fullmatch(line):
            call = _call(int(begun["pid"]), begun["name"], begun["arguments"])
            yield call
            if begun["result"] is None:
                unfinished[begun["pid"]] = call
            else:
                yield evolve(call, result=int(begun["result"]))
        elif not NEVER_ENDED.fullmatch(line):
            raise ValueError(f"strace wrote a line that this test cannot read: {line[:200]!r}")


def _call(pid: int, name: str, arguments: str) -> Call:
    without_strings = STRING.sub("", arguments)
    return Call(
        pid=pid,
        name=name,
        descriptors=[
            "" if is_deleted else os.fsdecode(_bytes(text) or text.encode())
            for text, is_deleted in DESCRIPTOR.findall(without_strings)
        ],
        strings=[_bytes(text) for text in STRING.findall(arguments)],
        others=DESCRIPTOR.sub("", without_strings),
    )


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else b""
