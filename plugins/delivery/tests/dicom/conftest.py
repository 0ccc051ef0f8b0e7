"""Fixtures of the tests of `dicom`: instances, submitters, and DICOM nodes that answer as a test needs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import receive_products
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from receive_values import Running

from dicom_adapter import InstanceStorageInfo, SubmitterContext, Upload
from dicom_adapter.testing import make_study, write
from dicom_adapter_delivery.dicom_settings import DicomSettings
from dicom_adapter_delivery.dicom_submitter import DicomSubmitter

PATIENT_ID = "NOBODY-4711"

StartNode = Callable[..., AbstractContextManager[Running]]


def encoded(data_set: Dataset) -> bytes:
    """Return a Part 10 file."""
    file = BytesIO()
    write(data_set, file)  # type: ignore[arg-type] # pydicom writes to files, too
    return file.getvalue()


def upload_of(data_set: Dataset, position: int = 0, **changes: Any) -> Upload:
    """Return the upload of an instance. `changes` replace values of the instance or of the upload."""
    content = encoded(data_set)
    values: dict[str, Any] = {
        "instance_id": position + 1,
        "ae_title": "LUNG",
        "calling_ae_title": "CT1",
        "peer_address": "192.0.2.1",
        "association_id": "a1",
        "sop_class_uid": str(data_set.SOPClassUID),
        "sop_instance_uid": str(data_set.SOPInstanceUID),
        "study_instance_uid": str(data_set.StudyInstanceUID),
        "series_instance_uid": str(data_set.SeriesInstanceUID),
        "transfer_syntax_uid": str(data_set.file_meta.TransferSyntaxUID),
        "patient_id": PATIENT_ID,
        "issuer_of_patient_id": "",
        "received_at": datetime.now(timezone.utc),
        "storage_key": "",
        "size_bytes": len(content),
        "checksum": 0,
    }
    upload = {"open": lambda: BytesIO(content), "size_bytes": len(content)}
    upload |= {name: changes.pop(name) for name in list(changes) if name in upload}
    return Upload(instance=InstanceStorageInfo(**{**values, **changes}), position=position, **upload)


def uploads_of_study(count: int, **arguments: Any) -> list[Upload]:
    study = make_study(instances=count, **arguments)
    return [upload_of(data_set, position) for position, data_set in enumerate(study)]


class ScriptedNode:
    """A DICOM node that answers each C-STORE with the status that a test chooses."""

    def __init__(
        self,
        contexts: Sequence[Any] = AllStoragePresentationContexts,
        *,
        with_echo: bool = True,
        with_commitment: bool = False,
        port: int = 0,
    ) -> None:
        self.received: list[str] = []  # SOP Instance UIDs in the order of the C-STOREs
        self.proposed: list[list[tuple[str, list[str]]]] = []  # for each association, the presentation contexts
        self.callers: list[tuple[str, str]] = []  # for each association, calling and called AE title
        self.answer: Callable[[evt.Event], Any] = lambda _event: 0
        self._lock = threading.Lock()
        entity = AE(ae_title="PACS")
        entity.supported_contexts = list(contexts)
        if with_echo:
            entity.add_supported_context("1.2.840.10008.1.1")
        if with_commitment:
            entity.add_supported_context("1.2.840.10008.1.20.1")
        entity.maximum_associations = 50
        self.entity = entity
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_REQUESTED, self._requested), (evt.EVT_N_ACTION, self.act)]
        self._server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port: int = self._server.server_address[1]

    @property
    def associations(self) -> int:
        return len(self.proposed)

    def _requested(self, event: evt.Event) -> None:
        requestor = event.assoc.requestor
        contexts = [(item.abstract_syntax, item.transfer_syntax) for item in requestor.requested_contexts]
        with self._lock:
            self.proposed.append([(str(name), [str(uid) for uid in uids]) for name, uids in contexts])
            self.callers.append((requestor.primitive.calling_ae_title, requestor.primitive.called_ae_title))

    def _store(self, event: evt.Event) -> Any:
        with self._lock:
            self.received.append(str(event.request.AffectedSOPInstanceUID))
        return self.answer(event)

    def act(self, event: evt.Event) -> Any:
        """Answer an N-ACTION. Subclasses with storage commitment override this method."""
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()


def context_of(sop_class: str, *transfer_syntaxes: str) -> Any:
    """Return a presentation context that a node supports."""
    entity = AE()
    entity.add_supported_context(sop_class, list(transfer_syntaxes) or [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    return entity.supported_contexts[0]


@pytest.fixture
def start_node() -> Iterator[Callable[..., ScriptedNode]]:
    nodes: list[ScriptedNode] = []

    def start(**options: Any) -> ScriptedNode:
        nodes.append(ScriptedNode(**options))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


@pytest.fixture
def node(start_node: Callable[..., ScriptedNode]) -> ScriptedNode:
    """A node that accepts everything."""
    return start_node()


@pytest.fixture
def make_submitter(tmp_path: Path) -> Callable[..., DicomSubmitter]:
    """A factory of submitters that are not open: `make_submitter(port, **settings)`."""

    def make(port: int, **settings: Any) -> DicomSubmitter:
        values: dict[str, Any] = {"host": "127.0.0.1", "port": port, "ae_title": "PACS", "connect_timeout": 20.0}
        context = SubmitterContext(name="pacs", data_folder=tmp_path / "submitters" / "pacs")
        return DicomSubmitter(DicomSettings(**{**values, **settings}), context)

    return make


@pytest.fixture
def connect(make_submitter: Callable[..., DicomSubmitter]) -> Iterator[Callable[..., DicomSubmitter]]:
    """A factory of submitters that are open."""
    opened: list[DicomSubmitter] = []

    def make(port: int, **settings: Any) -> DicomSubmitter:
        opened.append(make_submitter(port, **settings))
        opened[-1].open()
        return opened[-1]

    yield make
    for submitter in opened:
        submitter.close()


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def require(program: str | None, name: str) -> None:
    """Skip the test if a program is not installed."""
    if program is None:
        if name in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail(f"{name} is not installed, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
        pytest.skip(f"{name} is not installed")


@pytest.fixture
def storescp(tmp_path: Path) -> StartNode:
    """DCMTK's storescp as a context manager: `storescp(*options)`; the files are in `tmp_path / "scp" / "store"`."""
    require(receive_products.find_dcmtk(), "dcmtk")

    def start(*options: str) -> AbstractContextManager[Running]:
        (tmp_path / "scp").mkdir()
        return receive_products.storescp(tmp_path / "scp", 1, options)

    return start


@pytest.fixture
def orthanc(tmp_path: Path) -> StartNode:
    """Orthanc as a context manager: `orthanc(**settings)`."""
    require(receive_products.find_orthanc(), "orthanc")

    def start(**settings: object) -> AbstractContextManager[Running]:
        (tmp_path / "orthanc").mkdir()
        return receive_products.orthanc(tmp_path / "orthanc", 1, settings)

    return start
