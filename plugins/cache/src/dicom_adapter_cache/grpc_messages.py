"""Conversion between values of the cache and messages of its gRPC API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from dicom_adapter import JobPriority
from dicom_adapter_cache import values
from dicom_adapter_cache.wire import cache_pb2

M = TypeVar("M")

PRIORITIES = {
    cache_pb2.PRIORITY_UNSPECIFIED: JobPriority.NORMAL,
    cache_pb2.PRIORITY_LOWER: JobPriority.LOWER,
    cache_pb2.PRIORITY_NORMAL: JobPriority.NORMAL,
    cache_pb2.PRIORITY_HIGHER: JobPriority.HIGHER,
    cache_pb2.PRIORITY_IMMEDIATE: JobPriority.IMMEDIATE,
}
# JobPriority.NORMAL has two numbers: the later one, PRIORITY_NORMAL, replaces PRIORITY_UNSPECIFIED.
NUMBERS = {priority: number for number, priority in PRIORITIES.items()}


def message(kind: Callable[..., M], value: values.Value) -> M:
    """Return a message of `kind` with the same fields as `value`."""
    return kind(**{name: _field(each) for name, each in msgspec.structs.asdict(value).items()})


def detail(study_detail: values.StudyDetail) -> cache_pb2.StudyDetail:
    """Return a study with its series and patients."""
    return cache_pb2.StudyDetail(
        study=message(cache_pb2.Study, study_detail.study),
        series=[message(cache_pb2.Series, each) for each in study_detail.series],
        patients=[message(cache_pb2.StudyPatient, each) for each in study_detail.patients],
    )


def study_filter(request: cache_pb2.SearchStudiesRequest) -> values.StudyFilter:
    """Return the filter of a search request."""
    names = [name for name in values.StudyFilter.__struct_fields__ if name != "pinned"]
    pinned = request.pinned if request.HasField("pinned") else None
    return values.StudyFilter(**{name: getattr(request, name) for name in names}, pinned=pinned)


def order(request: cache_pb2.ComposeRequest) -> values.Order:
    """Return the order of a compose request. Raises msgspec.ValidationError for invalid values."""
    return msgspec.convert(
        {
            "pipeline": request.pipeline,
            "name": request.name,
            "aeTitle": request.ae_title or None,
            "priority": PRIORITIES.get(request.priority, str(request.priority)),
            "patients": [
                {"patientId": each.patient_id, "issuerOfPatientId": each.issuer_of_patient_id}
                for each in request.patients
            ],
            "studies": list(request.studies),
            "series": list(request.series),
            "instances": list(request.instances),
            "submitter": request.submitter or None,
            "metadata": dict(request.metadata),
            "keep": not request.clean_up,
            "insist": request.insist,
            "mixPatients": request.mix_patients,
        },
        values.Order,
    )


def _field(value: Any) -> Any:
    if isinstance(value, datetime):
        stamp = Timestamp()
        stamp.FromDatetime(value)
        return stamp
    return NUMBERS[value] if isinstance(value, JobPriority) else value
