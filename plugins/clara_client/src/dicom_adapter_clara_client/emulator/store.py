"""Stores of the emulated platform's state: the interface, and the store in memory. `folder` has the store on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from io import BytesIO
from typing import BinaryIO

from attrs import field, frozen

from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraPayload, ClaraPipeline, KeyedAnswer


@frozen(kw_only=True)
class SavedPlatform:
    """The saved state of a platform, read at its start."""

    jobs: tuple[ClaraJob, ...] = ()
    payloads: tuple[ClaraPayload, ...] = field(default=(), repr=False)  # with their files
    pipelines: tuple[ClaraPipeline, ...] = ()
    answers: tuple[KeyedAnswer, ...] = ()  # oldest first


class Sink(ABC):
    """Data of one upload. The data becomes part of the payload with `keep`."""

    @abstractmethod
    def write(self, data: bytes) -> None: ...

    @abstractmethod
    def keep(self, payload_id: str, name: str) -> None:
        """Store the written data under a name, atomically, in place of an older file of that name."""

    @abstractmethod
    def discard(self) -> None:
        """Discard the written data. Has no effect after `keep`."""


class PlatformStore(ABC):
    """Store of the state. Called under the platform's lock, except `Sink.write` and reading, which run concurrently.

    `save_payload` saves everything except the files.
    """

    @abstractmethod
    def load(self) -> SavedPlatform: ...

    @abstractmethod
    def save_job(self, job: ClaraJob) -> None: ...

    @abstractmethod
    def save_payload(self, payload: ClaraPayload) -> None: ...

    @abstractmethod
    def delete_payload(self, payload_id: str) -> None: ...

    @abstractmethod
    def save_pipeline(self, pipeline: ClaraPipeline) -> None: ...

    @abstractmethod
    def delete_pipeline(self, pipeline_id: str) -> None: ...

    @abstractmethod
    def save_answer(self, answer: KeyedAnswer) -> None: ...

    @abstractmethod
    def delete_answer(self, key: str) -> None: ...

    @abstractmethod
    def receive(self) -> Sink: ...

    @abstractmethod
    def open_file(self, payload_id: str, name: str) -> BinaryIO: ...

    @abstractmethod
    def copy_file(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        """Copy a file, from (payload id, name) to (payload id, name). A file never changes in place."""

    @abstractmethod
    def delete_file(self, payload_id: str, name: str) -> None: ...


class MemoryStore(PlatformStore):
    """Store in memory. Contains only the data of files, because the platform has all other values in memory."""

    def __init__(self) -> None:
        self.data: dict[tuple[str, str], bytes] = {}

    def load(self) -> SavedPlatform:
        return SavedPlatform()

    def save_job(self, job: ClaraJob) -> None:
        """Do nothing."""

    def save_payload(self, payload: ClaraPayload) -> None:
        """Do nothing."""

    def delete_payload(self, payload_id: str) -> None:
        for key in [key for key in self.data if key[0] == payload_id]:
            del self.data[key]

    def save_pipeline(self, pipeline: ClaraPipeline) -> None:
        """Do nothing."""

    def delete_pipeline(self, pipeline_id: str) -> None:
        """Do nothing."""

    def save_answer(self, answer: KeyedAnswer) -> None:
        """Do nothing."""

    def delete_answer(self, key: str) -> None:
        """Do nothing."""

    def receive(self) -> Sink:
        return _Buffer(self)

    def open_file(self, payload_id: str, name: str) -> BinaryIO:
        return BytesIO(self.data[payload_id, name])

    def copy_file(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        self.data[target] = self.data[source]

    def delete_file(self, payload_id: str, name: str) -> None:
        del self.data[payload_id, name]


class _Buffer(Sink):
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    def keep(self, payload_id: str, name: str) -> None:
        self._store.data[payload_id, name] = b"".join(self._pieces)

    def discard(self) -> None:
        self._pieces.clear()
