"""The record of a client: one line before each request, one after its response. Independent of the adapter."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import frozen
from pynetdicom.dsutils import split_dataset

SUCCESS = 0x0000  # PS3.4 table B.2-1


@frozen(kw_only=True)
class Sent:
    """One C-STORE request, as the sender recorded it."""

    ae_title: str  # called AE title
    study_instance_uid: str
    sop_instance_uid: str
    digest: str  # of the encoded data set
    began: float  # seconds since 1970, before the first byte was sent
    checksum: int = 0  # CRC-32 of the encoded data set, as in the ledger
    status: int | None = None  # of the response; None without a response
    answered: float | None = None  # seconds since 1970, when the response was received

    @property
    def is_acknowledged(self) -> bool:
        """Return whether the adapter is responsible for the instance."""
        return self.status == SUCCESS

    @property
    def may_be_kept(self) -> bool:
        """Return whether the adapter may have stored the instance: it was acknowledged, or no response arrived."""
        return self.status in (None, SUCCESS)


class Record:
    """A file to which a sender or composer appends. Written lines survive the end of the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._requests = 0

    def begin(self, request: dict[str, Any]) -> int:
        """Record a request before it is sent. Returns its number."""
        self._requests += 1
        self.note({"request": self._requests, **request})
        return self._requests

    def end(self, request: int, **answer: Any) -> None:
        """Record the response to a request."""
        self.note({"answer": request, **answer, "answered": time.time()})

    def note(self, line: dict[str, Any]) -> None:
        """Record another event."""
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)


@frozen(kw_only=True)
class Records:
    """The records of several senders."""

    sent: tuple[Sent, ...]
    associations: Counter[str]  # by kind of end
    not_established: Counter[str]  # association requests, by reason

    @property
    def acknowledged(self) -> int:
        return sum(sent.is_acknowledged for sent in self.sent)


def read(paths: Iterable[Path]) -> Records:
    """Read the records of senders."""
    sent: list[Sent] = []
    associations: Counter[str] = Counter()
    not_established: Counter[str] = Counter()
    for path in paths:
        requests, notes = read_requests(path)
        sent += [Sent(**request) for request in requests]
        associations.update(note["association"] for note in notes if "association" in note)
        not_established.update(note["not established"] for note in notes if "not established" in note)
    return Records(sent=tuple(sent), associations=associations, not_established=not_established)


def read_requests(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return all requests of a file with their responses, and the other events. An incomplete last line is ignored."""
    requests: dict[int, dict[str, Any]] = {}
    notes = []
    for line in path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines():
        entry = json.loads(line)
        if "request" in entry:
            requests[entry.pop("request")] = entry
        elif "answer" in entry:
            requests[entry.pop("answer")].update(entry)
        else:
            notes.append(entry)
    return list(requests.values()), notes


def data_set_digest(path: Path) -> str:
    """Return the SHA-256 of a Part 10 file's data set."""
    return hashlib.sha256(data_set_bytes(path)).hexdigest()


def data_set_bytes(path: Path) -> bytes:
    """Return a Part 10 file's data set, which follows the File Meta Information (PS3.10 section 7.1)."""
    _meta, start = split_dataset(path)
    return path.read_bytes()[start:]
