"""What a sender writes down of each C-STORE: a line before it, a line after its answer. Independent of the adapter."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, frozen
from pynetdicom.dsutils import split_dataset

SUCCESS = 0x0000  # PS3.4 table B.2-1


@frozen(kw_only=True)
class Sent:
    """One C-STORE request as its sender saw it."""

    ae_title: str  # called
    sop_instance_uid: str
    digest: str  # of the data set's bytes
    began: float  # seconds since 1970, before the first byte left
    status: int | None = None  # of the response; None: there was none

    @property
    def is_acknowledged(self) -> bool:
        """The adapter has taken it upon itself."""
        return self.status == SUCCESS

    @property
    def may_be_kept(self) -> bool:
        """Acknowledged, or the answer was lost: then only the adapter knows."""
        return self.status in (None, SUCCESS)


class Record:
    """A file that a sender appends to; a line that was written survives the sender's end."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._requests = 0

    def sending(self, sent: Sent) -> int:
        """Write down that a request is about to leave; returns its number."""
        self._requests += 1
        self._write({"request": self._requests, **asdict(sent)})
        return self._requests

    def answered(self, request: int, status: int) -> None:
        """Write down what was answered."""
        self._write({"answer": request, "status": status})

    def association(self, end: str) -> None:
        """Write down how an association ended."""
        self._write({"association": end})

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")


@frozen(kw_only=True)
class Records:
    """What several senders wrote down."""

    sent: tuple[Sent, ...]
    associations: Counter[str]  # by how they ended

    @property
    def acknowledged(self) -> int:
        return sum(sent.is_acknowledged for sent in self.sent)


def read(paths: Iterable[Path]) -> Records:
    """Everything from these files; a line that is still being written is left out."""
    sent: list[Sent] = []
    associations: Counter[str] = Counter()
    for path in paths:
        requests: dict[int, Sent] = {}
        for line in path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines():
            entry = json.loads(line)
            if "association" in entry:
                associations[entry["association"]] += 1
            elif "answer" in entry:
                requests[entry["answer"]] = evolve(requests[entry["answer"]], status=entry["status"])
            else:
                number = entry.pop("request")
                requests[number] = Sent(**entry)
        sent += requests.values()
    return Records(sent=tuple(sent), associations=associations)


def data_set_digest(path: Path) -> str:
    """SHA-256 of a Part 10 file's data set: what follows the File Meta Information (PS3.10 section 7.1)."""
    _meta, start = split_dataset(path)
    return hashlib.sha256(path.read_bytes()[start:]).hexdigest()
