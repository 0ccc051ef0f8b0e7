"""Step 6 (`results`) of the flow: store the outputs of a succeeded job, before their rows are committed.

Each output is copied to the storage backend in pieces, so that memory does not depend on its size. After a temporary
failure, or if the process is killed, the job stays running, and the step is repeated. The outputs of the failed attempt
get no rows: the step deletes their objects if it can; otherwise an audit finds them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import structlog
from attrs import Factory, define, field, frozen

from dicom_adapter.api.errors import Permanent, Retriable, StorageFull
from dicom_adapter.api.storage import InstanceWriter
from dicom_adapter.api.submitter import Output, Submitter
from dicom_adapter.api.values import Job
from dicom_adapter.config.model import StorageConfig
from dicom_adapter.config.results import ResultsConfig
from dicom_adapter.config.transfer_syntaxes import UNSUPPORTED_TRANSFER_SYNTAXES
from dicom_adapter.dicom.part10 import mark_output
from dicom_adapter.dicom.part10_reader import FileOfUnknownOrigin, Part10Reader
from dicom_adapter.flow.free_space import storage_full
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.results")

PIECE_BYTES = 1 << 20  # bytes that are copied together
SYNCED_TOGETHER = 100  # objects that are made durable together
RAISE_LIMIT = "raise the limit in [ae-titles.<AE title>.results], then retry the job"
CHECK_SPACE_EVERY = 64 << 20  # bytes after which the free space is checked again


class CannotCollect(Retriable):
    """An output cannot be read or stored now. The step is repeated."""


class ResultsRefused(Permanent):
    """The outputs of a job break a limit of the configuration. The job is faulted, and nothing is collected.

    After the limit was raised, a retry of the job continues with this step, not with another run.
    """


@frozen(kw_only=True)
class StoredOutput:
    """An output in the storage backend."""

    name: str = field(repr=False)  # as the pipeline chose it
    storage_key: str
    file: FileOfUnknownOrigin


@define
class Collecting:
    """The outputs of one job that are stored so far."""

    settings: ResultsConfig
    stored: list[StoredOutput] = Factory(list)
    unsynced: list[str] = Factory(list)  # storage keys
    size_bytes: int = 0  # of all outputs


class Collector:
    """Stores outputs. Thread-safe."""

    def __init__(self, resources: Resources, limits: StorageConfig, settings: ResultsConfig) -> None:
        """Store outputs within the limits of the storage and of the AE title's `settings`."""
        self._storage = resources.storage
        self._limits = limits
        self._settings = settings

    def collect(self, submitter: Submitter[Any], job: Job) -> Sequence[StoredOutput]:
        """Store all outputs of a job; they are durable when this method returns.

        Raises Retriable if an output cannot be read or stored now, ResultsRefused for too many or too large outputs,
        and the errors of the submitter. After an error, nothing is kept.
        """
        collecting = Collecting(settings=self._settings)
        try:
            for output in submitter.results(job):
                self._store(collecting, output)
            self._sync(collecting)
        except BaseException:
            self._delete(collecting)
            raise
        return collecting.stored

    def discard(self, stored: Sequence[StoredOutput]) -> None:
        """Delete outputs that get no rows. Never raises: an audit finds what was not deleted."""
        with suppress(Exception):
            self._storage.delete([output.storage_key for output in stored])

    def _store(self, collecting: Collecting, output: Output) -> None:
        if not isinstance(output, Output) or not isinstance(output.name, str):
            raise TypeError("results must return Output(name=<text>, open=<function>)")
        number = len(collecting.stored) + 1
        if number > collecting.settings.max_outputs:
            limit = collecting.settings.max_outputs
            raise ResultsRefused(f"the job has more outputs than max-outputs = {limit}; {RAISE_LIMIT}")
        self._require_space()
        reader = Part10Reader(UNSUPPORTED_TRANSFER_SYNTAXES)
        with _storing():
            writer = self._storage.writer()
        try:
            with _reading(number):
                file = output.open()
            with file:
                self._copy(file, writer, reader, collecting)
            with _storing():
                key = writer.finish()
        except BaseException:
            writer.discard()
            raise
        collecting.unsynced.append(key)
        collecting.stored.append(StoredOutput(name=output.name, storage_key=key, file=reader.result()))
        if len(collecting.unsynced) >= SYNCED_TOGETHER:
            self._sync(collecting)

    def _copy(self, file: BinaryIO, writer: InstanceWriter, reader: Part10Reader, collecting: Collecting) -> None:
        number, size, checked = len(collecting.stored) + 1, 0, 0
        is_begun = False
        while True:
            with _reading(number):
                piece = file.read(PIECE_BYTES)
            if not piece:
                break
            size += len(piece)
            _require_within_limits(number, size, collecting.size_bytes + size, collecting.settings)
            if size - checked >= CHECK_SPACE_EVERY:
                self._require_space()
                checked = size
            is_begun = _write(writer, reader.feed(piece), is_begun=is_begun)
        _write(writer, reader.end(), is_begun=is_begun)
        collecting.size_bytes += size

    def _require_space(self) -> None:
        """Raise CannotCollect if results would use the space that is reserved for instances that are received."""
        with _storing():
            lack = storage_full(self._storage.capacity(), self._limits, PIECE_BYTES)
        if lack:
            raise CannotCollect(f"the outputs wait for free space: {lack}")

    def _sync(self, collecting: Collecting) -> None:
        if collecting.unsynced:
            with _storing():
                self._storage.sync(collecting.unsynced)
            collecting.unsynced.clear()

    def _delete(self, collecting: Collecting) -> None:
        if collecting.stored:
            self.discard(collecting.stored)


def _write(writer: InstanceWriter, pieces: Sequence[bytes | memoryview], *, is_begun: bool) -> bool:
    """Write the next pieces of an output. Its first piece gets the preamble of outputs, see `mark_output`.

    Return whether the first piece is written.
    """
    if pieces and not is_begun:
        pieces = [mark_output(bytes(pieces[0])), *pieces[1:]]
    with _storing():
        writer.write_pieces(pieces)
    return is_begun or bool(pieces)


def _require_within_limits(number: int, size: int, total: int, settings: ResultsConfig) -> None:
    if size > settings.max_output:
        raise ResultsRefused(f"output {number} has more than max-output = {settings.max_output} bytes; {RAISE_LIMIT}")
    if total > settings.max_bytes:
        raise ResultsRefused(
            f"the outputs have more than max-bytes = {settings.max_bytes} bytes together; {RAISE_LIMIT}"
        )


@contextmanager
def _reading(number: int) -> Iterator[None]:
    """Context manager: a failure to read an output is temporary.

    The message has the number of the output, not its name, which may contain patient data.
    """
    try:
        yield
    except OSError as failure:
        raise CannotCollect(f"output {number} cannot be read ({_name_of(failure)})") from failure


@contextmanager
def _storing() -> Iterator[None]:
    """Context manager: every failure of the storage backend is temporary, and not caused by the job."""
    try:
        yield
    except Retriable:
        raise
    except StorageFull as failure:
        raise CannotCollect("the outputs wait for free space in the storage") from failure
    except OSError as failure:
        raise CannotCollect(f"the outputs cannot be stored ({_name_of(failure)})") from failure
    except Exception as failure:
        raise CannotCollect(f"the outputs cannot be stored ({type(failure).__name__})") from failure


def _name_of(failure: OSError) -> str:
    return errno.errorcode.get(failure.errno or 0, type(failure).__name__)
