"""The payloads of the platform: folders of files. Each job has a payload, and clients can create reusable payloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import RLock
from types import TracebackType
from typing import BinaryIO

from attrs import evolve

from dicom_adapter_clara_client.emulator import rules
from dicom_adapter_clara_client.emulator.files import PayloadFiles
from dicom_adapter_clara_client.emulator.rules import ClaraError, Conflict, InvalidValue, NotFound
from dicom_adapter_clara_client.emulator.store import PlatformStore, Sink
from dicom_adapter_clara_client.emulator.values import ClaraJobState, ClaraPayload, PayloadFile, PayloadType
from dicom_adapter_clara_client.wire.codes import ClaraCode

INPUT = "input"  # the folder of a job's payload that clients fill
METADATA_REFUSED = ClaraCode.PAYLOAD_METADATA_REFUSED


class Payloads:
    """All payloads. A second upload of a name replaces the first, because NVIDIA's clients repeat uploads."""

    def __init__(
        self, store: PlatformStore, lock: RLock, known: Iterable[ClaraPayload], state_of: Callable[[str], ClaraJobState]
    ) -> None:
        self._store = store
        self._lock = lock
        self._state_of = state_of  # returns the state of a job, by id
        self._payloads: dict[str, ClaraPayload] = {}  # without files, because copying them at each change would be slow
        self._files: dict[str, PayloadFiles] = {}
        for payload in known:
            self._files[payload.payload_id] = PayloadFiles(payload.files)
            self._payloads[payload.payload_id] = evolve(payload, files=())

    def create(self, metadata: Mapping[str, str] | None = None) -> ClaraPayload:
        """Create a reusable payload."""
        validated = rules.with_metadata({}, (metadata or {}).items(), METADATA_REFUSED)
        with self._lock:
            return self._add(ClaraPayload(payload_id=rules.new_id(), type=PayloadType.REUSABLE, metadata=validated))

    def create_for(self, job_id: str, payload_id: str, inputs: Iterable[str]) -> None:
        """Create a job's payload, with the files of the reusable payloads `inputs` in its input folder."""
        with self._lock:
            copies = self._copies(inputs)
            self._add(ClaraPayload(payload_id=payload_id, type=PayloadType.PIPELINE, job_id=job_id))
            for name, (source, file) in copies.items():
                self._store.copy_file((source, file.name), (payload_id, name))
                self._files[payload_id].put(evolve(file, name=name))

    def job_of(self, payload_id: str) -> str | None:
        """Return the job of a payload; None for a reusable one."""
        with self._lock:
            return self._find(payload_id).job_id

    def details(self, payload_id: str) -> ClaraPayload:
        """Return one payload with its files."""
        with self._lock:
            payload = self._find(payload_id)
            return evolve(payload, files=tuple(self._files[payload.payload_id]))

    def receive(
        self, payload_id: str, name: str, *, mode: int = 0, from_root: bool = False, replace: bool = True
    ) -> IncomingFile:
        """Begin an upload. The file becomes part of the payload with `IncomingFile.commit`.

        `name` is relative to the input folder of a job's payload; with `from_root`, to the root of the payload. In both
        cases, only the input folder accepts uploads. `replace=False` refuses a name that exists.
        """
        name = rules.stored_name(name)
        with self._lock:
            payload = self._writable(payload_id)
            if payload.type is PayloadType.PIPELINE and not from_root:
                name = rules.stored_name(f"{INPUT}/{name}")
            self._check_place(payload, name, replace)
            file = PayloadFile(name=name, size_bytes=0, mode=mode)
            return IncomingFile(self, payload.payload_id, file, replace, self._store.receive())

    def upload(self, payload_id: str, name: str, data: Iterable[bytes], *, mode: int = 0) -> PayloadFile:
        """Store one file, named as in `receive`."""
        with self.receive(payload_id, name, mode=mode) as incoming:
            for piece in data:
                incoming.write(piece)
            return incoming.commit()

    def add_output(self, payload_id: str, name: str, data: bytes) -> PayloadFile:
        """Store a file as an operator of the job does, usually as `operators/<operator>/…`, in any state of the job."""
        return self.store_output(payload_id, name, [data])

    def store_output(self, payload_id: str, name: str, pieces: Iterable[bytes]) -> PayloadFile:
        """Store a file as `add_output` does, piece by piece."""
        file = PayloadFile(name=rules.stored_name(name), size_bytes=0)
        with self._lock:
            payload_id = self._find(payload_id).payload_id
            with IncomingFile(self, payload_id, file, True, self._store.receive()) as incoming:
                for piece in pieces:
                    incoming.write(piece)
                return self._keep(incoming)

    def commit(self, incoming: IncomingFile) -> PayloadFile:
        """Make a complete upload part of its payload. Called by `IncomingFile.commit`."""
        with self._lock:
            payload = self._writable(incoming.payload_id)  # the job may have been started during the upload
            self._check_place(payload, incoming.file.name, incoming.replace)
            return self._keep(incoming)

    def download(self, payload_id: str, name: str) -> tuple[PayloadFile, BinaryIO]:
        """Return a file by its name, and a reader that remains valid if the file is replaced or deleted."""
        name = rules.read_name(name)
        with self._lock:
            payload_id = self._find(payload_id).payload_id
            file = self._files[payload_id].find(name)
            return file, self._store.open_file(payload_id, file.name)

    def remove(self, payload_id: str, name: str) -> None:
        """Delete a file by its name, relative to the root."""
        name = rules.read_name(name)
        with self._lock:
            payload_id = self._writable(payload_id).payload_id
            file = self._files[payload_id].find(name)
            self._store.delete_file(payload_id, file.name)
            self._files[payload_id].drop(file.name)

    def delete(self, payload_id: str) -> None:
        """Delete a payload: a reusable one at any time, a job's payload after the job has stopped."""
        with self._lock:
            payload = self._find(payload_id)
            if payload.job_id is not None and self._state_of(payload.job_id) is not ClaraJobState.STOPPED:
                raise Conflict(ClaraCode.PAYLOAD_READ_ONLY, "the payload's job has not stopped: cancel it first")
            self._store.delete_payload(payload.payload_id)
            del self._payloads[payload.payload_id], self._files[payload.payload_id]

    def add_metadata(self, payload_id: str, metadata: Mapping[str, str]) -> ClaraPayload:
        """Add to a reusable payload's metadata: all entries or none."""
        with self._lock:
            payload = self._reusable(payload_id)
            validated = rules.with_metadata(payload.metadata, metadata.items(), METADATA_REFUSED)
            return self._save(evolve(payload, metadata=validated))

    def remove_metadata(self, payload_id: str, keys: Iterable[str]) -> ClaraPayload:
        """Remove from a reusable payload's metadata."""
        with self._lock:
            payload = self._reusable(payload_id)
            return self._save(evolve(payload, metadata=rules.without_metadata(payload.metadata, keys)))

    def _add(self, payload: ClaraPayload) -> ClaraPayload:
        self._files[payload.payload_id] = PayloadFiles()
        return self._save(payload)

    def _save(self, payload: ClaraPayload) -> ClaraPayload:
        self._store.save_payload(payload)
        self._payloads[payload.payload_id] = payload
        return payload

    def _find(self, payload_id: str) -> ClaraPayload:
        key = rules.identifier(payload_id, "payload", ClaraCode.PAYLOAD_ID_MALFORMED)
        if key not in self._payloads:
            raise NotFound(ClaraCode.NO_SUCH_PAYLOAD, f"no payload {key}")
        return self._payloads[key]

    def _writable(self, payload_id: str) -> ClaraPayload:
        payload = self._find(payload_id)
        if payload.job_id is not None and self._state_of(payload.job_id) is not ClaraJobState.PENDING:
            raise Conflict(
                ClaraCode.PAYLOAD_READ_ONLY, f"payload {payload.payload_id} is read-only: its job was started"
            )
        return payload

    def _reusable(self, payload_id: str) -> ClaraPayload:
        payload = self._find(payload_id)
        if payload.type is not PayloadType.REUSABLE:
            raise InvalidValue(METADATA_REFUSED, "only reusable payloads have metadata: add it to the job")
        return payload

    def _check_place(self, payload: ClaraPayload, name: str, replace: bool) -> None:
        files = self._files[payload.payload_id]
        if payload.type is PayloadType.PIPELINE and not name.startswith(f"{INPUT}/"):
            raise Conflict(ClaraCode.PAYLOAD_READ_ONLY, f"only '{INPUT}/' of a job's payload accepts uploads")
        if not replace and name in files:
            raise Conflict(ClaraCode.FILE_NAME_TAKEN, "the payload has a file of this name")
        files.check(name)

    def _keep(self, incoming: IncomingFile) -> PayloadFile:
        files = self._files[incoming.payload_id]
        files.check(incoming.file.name)
        incoming.sink.keep(incoming.payload_id, incoming.file.name)
        incoming.replaced = incoming.file.name in files
        files.put(incoming.file)
        return incoming.file

    def _copies(self, inputs: Iterable[str]) -> dict[str, tuple[str, PayloadFile]]:
        copies: dict[str, tuple[str, PayloadFile]] = {}
        for source in [self._input(payload_id) for payload_id in inputs]:
            for file in self._files[source]:
                name = f"{INPUT}/{file.name}"
                if name in copies:
                    raise Conflict(
                        ClaraCode.JOB_INPUT_REFUSED, "two of the input payloads have a file with the same name"
                    )
                copies[name] = (source, file)
        return copies

    def _input(self, payload_id: str) -> str:
        try:
            payload = self._find(payload_id)
        except ClaraError as error:
            raise InvalidValue(error.code, *error.messages) from error
        if payload.type is not PayloadType.REUSABLE:
            raise InvalidValue(ClaraCode.JOB_INPUT_REFUSED, f"payload {payload.payload_id} is not a reusable one")
        return payload.payload_id


class IncomingFile:
    """An upload in progress. If its `with` block ends without `commit`, the data is discarded."""

    def __init__(self, payloads: Payloads, payload_id: str, file: PayloadFile, replace: bool, sink: Sink) -> None:
        self._payloads = payloads
        self.payload_id = payload_id
        self.file = file  # with the size received so far
        self.replace = replace
        self.replaced = False  # set by `commit`: whether the file replaced another one
        self.sink = sink

    def write(self, data: bytes) -> None:
        """Write the next piece."""
        self.sink.write(data)
        self.file = evolve(self.file, size_bytes=self.file.size_bytes + len(data))

    def commit(self) -> PayloadFile:
        """Make the file part of the payload, atomically."""
        return self._payloads.commit(self)

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sink.discard()
