"""The methods of the gRPC API: each method reads the request, calls `Cache`, and returns messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
import msgspec
import structlog

from dicom_adapter import Refused, Retriable
from dicom_adapter_cache import errors, grpc_messages, values
from dicom_adapter_cache.errors import CacheError, InvalidRequest
from dicom_adapter_cache.operations import Cache
from dicom_adapter_cache.wire import cache_pb2, cache_pb2_grpc

log = structlog.get_logger("dicom_adapter_cache")

Context: TypeAlias = grpc.ServicerContext
CODES: dict[type[CacheError], grpc.StatusCode] = {
    errors.NotInCache: grpc.StatusCode.NOT_FOUND,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Ambiguous: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StillArriving: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PatientConflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.KeyReused: grpc.StatusCode.ALREADY_EXISTS,
}
PIECE_BYTES = 256 * 1024  # content of one message of a download
KEY = re.compile(values.KEY_PATTERN)

T = TypeVar("T")


class CacheService(cache_pb2_grpc.CacheServicer):
    """gRPC service for one AE title. Thread-safe."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def SearchStudies(  # noqa: N802 - name of the .proto
        self, request: cache_pb2.SearchStudiesRequest, context: Context
    ) -> Iterator[cache_pb2.Study]:
        study_filter = grpc_messages.study_filter(request)
        with _refusals(context):
            for study in _items(lambda page: self._cache.studies(study_filter, page), request.offset, request.limit):
                yield grpc_messages.message(cache_pb2.Study, study)

    def SearchPatients(  # noqa: N802 - name of the .proto
        self, request: cache_pb2.SearchStudiesRequest, context: Context
    ) -> Iterator[cache_pb2.Patient]:
        study_filter = grpc_messages.study_filter(request)
        with _refusals(context):
            for patient in _items(lambda page: self._cache.patients(study_filter, page), request.offset, request.limit):
                yield grpc_messages.message(cache_pb2.Patient, patient)

    def GetStudy(self, request: cache_pb2.StudyRequest, context: Context) -> cache_pb2.StudyDetail:  # noqa: N802
        with _refusals(context):
            return grpc_messages.detail(self._cache.study(request.study_instance_uid, request.ae_title))

    def ListInstances(  # noqa: N802 - name of the .proto
        self, request: cache_pb2.ListInstancesRequest, context: Context
    ) -> Iterator[cache_pb2.Instance]:
        uid, series = request.study_instance_uid, request.series_instance_uid or None
        with _refusals(context):
            for instance in _items(lambda page: self._cache.instances(uid, series, page, request.ae_title), 0, 0):
                yield grpc_messages.message(cache_pb2.Instance, instance)

    def Download(  # noqa: N802 - name of the .proto
        self, request: cache_pb2.DownloadRequest, context: Context
    ) -> Iterator[cache_pb2.Piece]:
        with _refusals(context), self._cache.download(request.sop_instance_uid, request.ae_title).file as file:
            while content := file.read(PIECE_BYTES):
                yield cache_pb2.Piece(content=content)

    def Compose(self, request: cache_pb2.ComposeRequest, context: Context) -> cache_pb2.Job:  # noqa: N802
        with _refusals(context):
            key = request.idempotency_key or None
            if key is not None and not KEY.fullmatch(key):
                raise InvalidRequest(
                    "idempotency_key must be 1 to 255 visible ASCII characters", field="idempotency_key"
                )
            job = self._cache.compose(grpc_messages.order(request), key)
            return grpc_messages.message(cache_pb2.Job, job)

    def GetJob(self, request: cache_pb2.JobRequest, context: Context) -> cache_pb2.Job:  # noqa: N802
        with _refusals(context):
            return grpc_messages.message(cache_pb2.Job, self._cache.job(request.job_id))

    def ListJobs(self, request: cache_pb2.ListJobsRequest, context: Context) -> Iterator[cache_pb2.Job]:  # noqa: N802
        with _refusals(context):
            if request.limit < 0:
                raise InvalidRequest("limit must not be negative", field="limit")
            for job in self._cache.jobs(min(request.limit, values.LARGEST_PAGE) or 100).items:
                yield grpc_messages.message(cache_pb2.Job, job)

    def DeleteStudy(  # noqa: N802 - name of the .proto
        self, request: cache_pb2.StudyRequest, context: Context
    ) -> cache_pb2.DeleteStudyResponse:
        with _refusals(context):
            self._cache.delete(request.study_instance_uid, request.ae_title)
            return cache_pb2.DeleteStudyResponse()

    def PinStudy(  # noqa: N802 - name of the .proto
        self, request: cache_pb2.PinStudyRequest, context: Context
    ) -> cache_pb2.PinStudyResponse:
        with _refusals(context):
            pinned = self._cache.pin(request.study_instance_uid, pinned=request.pinned, ae_title=request.ae_title)
            return grpc_messages.message(cache_pb2.PinStudyResponse, pinned)


def _items(read_page: Callable[[values.PageRequest], Any], offset: int, limit: int) -> Iterator[Any]:
    """Yield at most `limit` items from `offset`, read page by page; a limit of 0 means all.

    Raises InvalidRequest if `offset` or `limit` is negative.
    """
    if limit < 0 or offset < 0:
        raise InvalidRequest("limit and offset must not be negative", field="limit")
    remaining = limit or values.LARGEST_OFFSET
    while remaining > 0:
        page = read_page(values.PageRequest(limit=min(remaining, values.LARGEST_PAGE), offset=offset))
        yield from page.items
        offset += len(page.items)
        remaining -= len(page.items)
        if not page.items or offset >= page.total:
            return


@contextmanager
def _refusals(context: Context) -> Iterator[None]:
    """Translate the cache's errors into gRPC statuses."""
    try:
        yield
    except CacheError as refusal:
        about = {name: value for name, value in refusal.members.items() if name != "field"}
        text = f"{refusal} {msgspec.json.encode(about).decode()}" if about else str(refusal)
        _abort(context, CODES[type(refusal)], text, refusal.kind)
    except msgspec.ValidationError as failure:
        _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(failure), errors.InvalidRequest.kind)
    except Retriable as failure:
        _abort(context, grpc.StatusCode.UNAVAILABLE, str(failure), "retriable")
    except Refused as refusal:
        _abort(context, grpc.StatusCode.FAILED_PRECONDITION, str(refusal), "refused")


def _abort(context: Context, code: grpc.StatusCode, text: str, kind: str) -> NoReturn:
    context.set_trailing_metadata((("problem", kind),))
    context.abort(code, text)
    raise AssertionError  # `abort` has raised
