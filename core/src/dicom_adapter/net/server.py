"""The listening side on pynetdicom: its associations, C-ECHO and C-STORE become questions to `Handlers`.

pynetdicom's own server serves each association in threads of its own. Nothing outside `net/` knows that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from socketserver import BaseServer
from typing import Any, Protocol
from uuid import uuid4
from weakref import WeakSet

import structlog
from attrs import define, frozen
from pydicom.dataset import Dataset
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined] # made at import time
from pynetdicom.transport import ThreadedAssociationServer

from dicom_adapter.config.model import Dicom
from dicom_adapter.errors import describe_failure
from dicom_adapter.flow.association import AssociationRequest, Rejection, Verdict
from dicom_adapter.flow.store import Answer, Received, Status
from dicom_adapter.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

log = structlog.get_logger("dicom_adapter.net")

ERROR_COMMENT_LENGTH = 64  # characters: (0000,0902) Error Comment is LO
BACKLOG = 128  # connections that may wait to be taken
ABORT_SECONDS = 2.0  # for peers to close their connections after an A-ABORT; then they are dropped


@frozen(kw_only=True)
class Closed:
    """An association that was accepted and has ended."""

    association_id: str
    request: AssociationRequest
    how: str  # "released", "aborted" or "lost"
    statuses: Mapping[str, int]  # how many C-STOREs were answered with which status, by name


class Handlers(Protocol):
    """What the receiver decides."""

    def requested(self, association_id: str, request: AssociationRequest, associations: int) -> Verdict:
        """Accept? `associations` are open already."""

    def store(self, received: Received) -> Answer:
        """Keep it?"""

    def closed(self, closed: Closed) -> None:
        """An accepted association has ended."""


@define
class _Open:
    association_id: str
    request: AssociationRequest
    statuses: dict[str, int]
    how: str = "lost"


class Server:
    """Listens from `start` to `stop`."""

    def __init__(self, dicom: Dicom, handlers: Handlers) -> None:
        # Storage SOP classes are many, private ones too; every one of them is taken, in every transfer syntax.
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        _config.LOG_HANDLER_LEVEL = "none"
        self._dicom = dicom
        self._handlers = handlers
        self._open: dict[Association, _Open] = {}
        self._gone: WeakSet[Association] = WeakSet()  # their connections closed while they were not open
        self._is_stopping = False
        self._lock = threading.Lock()  # guards these three
        self._server: _AssociationServer | None = None

    def start(self) -> int:
        """Bind and listen; returns the port. Raises OSError when that is not possible."""
        self._server = _AssociationServer(
            _application_entity(self._dicom),
            (self._dicom.bind, self._dicom.port),
            "ANY",
            [build_context(Verification)],
            evt_handlers=[
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_RELEASED, self._ending, ["released"]),
                (evt.EVT_ABORTED, self._ending, ["aborted"]),
                (evt.EVT_PDU_RECV, self._look_for_abort),
                (evt.EVT_CONN_CLOSE, self._closed),
            ],
        )
        threading.Thread(target=self._server.serve_forever, name="accept", daemon=True).start()
        assert self._server.socket is not None  # the constructor binds it
        port: int = self._server.socket.getsockname()[1]
        return port

    def stop(self, drain_seconds: float) -> None:
        """Take no more connections, wait for open associations that long, then abort what is left."""
        assert self._server is not None  # started
        with self._lock:
            self._is_stopping = True
        self._server.shutdown()
        self._server.server_close()
        self._wait_until_closed(drain_seconds)
        for association in list(self._open):
            association.abort(block=False)
        self._wait_until_closed(ABORT_SECONDS)
        for association in list(self._open):
            self._forget(association)

    def _wait_until_closed(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            time.sleep(0.01)

    # --- called by pynetdicom, in the association's thread ----------------------------------------------------------

    def _requested(self, event: evt.Event) -> None:
        association = event.assoc
        association_id = uuid4().hex
        request = _request(association)
        with self._lock:
            if association in self._gone:
                return
            verdict = self._judge(association_id, request)
            if verdict.rejection is None:
                self._open[association] = _Open(association_id, request, {})
        if verdict.rejection is not None:
            association.acse.send_reject(*verdict.rejection.value)
            association.kill()

    def _judge(self, association_id: str, request: AssociationRequest) -> Verdict:
        if self._is_stopping:
            return Verdict(rejection=Rejection.TEMPORARY_CONGESTION, why="the service is stopping")
        try:
            return self._handlers.requested(association_id, request, len(self._open))
        except Exception as failure:  # noqa: BLE001 - pynetdicom would pass over it and accept
            log.error("association_not_judged", association_id=association_id, error=describe_failure(failure))
            return Verdict(rejection=Rejection.TEMPORARY_CONGESTION, why="it could not be judged")

    def _store(self, event: evt.Event) -> Dataset | int:
        opened = self._open[event.assoc]
        answer = self._handlers.store(_received(event, opened))
        opened.statuses[answer.status.name] = opened.statuses.get(answer.status.name, 0) + 1
        return _response(answer)

    def _ending(self, event: evt.Event, how: str) -> None:
        opened = self._open.get(event.assoc)
        if opened is not None:
            opened.how = how

    def _look_for_abort(self, event: evt.Event) -> None:
        if isinstance(event.pdu, A_ABORT_RQ):  # for a peer's abort EVT_ABORTED comes after EVT_CONN_CLOSE
            self._ending(event, "aborted")

    def _closed(self, event: evt.Event) -> None:
        self._forget(event.assoc)

    def _forget(self, association: Association) -> None:
        with self._lock:
            opened = self._open.pop(association, None)
            if opened is None:
                self._gone.add(association)
        if opened is not None:
            self._handlers.closed(
                Closed(
                    association_id=opened.association_id,
                    request=opened.request,
                    how=opened.how,
                    statuses=opened.statuses,
                )
            )


class _AssociationServer(ThreadedAssociationServer):
    request_queue_size = BACKLOG
    daemon_threads = True

    def shutdown(self) -> None:
        """Stop accepting. pynetdicom's own asks the application entity for a server that it did not make."""
        BaseServer.shutdown(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection failed before it became an association. The default prints a traceback."""
        del request
        log.warning("connection_failed", peer=str(client_address[0]))


def _application_entity(dicom: Dicom) -> ApplicationEntity:
    entity = ApplicationEntity("ANY")
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_pdu_size = dicom.max_pdu
    entity.maximum_associations = 2**31  # `judge` decides
    entity.acse_timeout = dicom.association_timeout
    entity.network_timeout = dicom.idle_timeout
    entity.dimse_timeout = dicom.idle_timeout
    return entity


def _request(association: Association) -> AssociationRequest:
    primitive = association.requestor.primitive
    assert primitive is not None  # it has just arrived
    return AssociationRequest(
        called_ae_title=(primitive.called_ae_title or "").strip(),
        calling_ae_title=(primitive.calling_ae_title or "").strip(),
        peer_address=association.requestor.address or "",
    )


def _received(event: evt.Event, opened: _Open) -> Received:
    assert isinstance(event.request, C_STORE)  # the event says so
    return Received(
        ae_title=opened.request.called_ae_title,
        calling_ae_title=opened.request.calling_ae_title,
        peer_address=opened.request.peer_address,
        association_id=opened.association_id,
        sop_class_uid=str(event.request.AffectedSOPClassUID),
        sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        data_set=event.encoded_dataset(include_meta=False),
    )


def _response(answer: Answer) -> Dataset | int:
    if answer.status is Status.SUCCESS:
        return answer.status.value
    response = Dataset()
    response.Status = answer.status.value
    response.ErrorComment = answer.why[:ERROR_COMMENT_LENGTH]
    return response
