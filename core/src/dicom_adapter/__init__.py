"""dicom-adapter: receives DICOM, keeps every instance it acknowledges, and turns instances into inference jobs.

This is the public interface: a plugin imports `dicom_adapter` and `dicom_adapter.testing`, and nothing deeper.
"""

from dicom_adapter.declare import NoSettings
from dicom_adapter.errors import (
    ConfigurationError,
    DicomAdapterError,
    Permanent,
    Refused,
    Retriable,
    StorageFull,
    StoredObjectMissing,
    Unprocessable,
)
from dicom_adapter.hookspecs import hookimpl
from dicom_adapter.lane import LaneHandle
from dicom_adapter.model import (
    Capacity,
    InstanceStorageInfo,
    Job,
    JobPriority,
    JobState,
    PlatformJob,
    PlatformStatus,
    Waiting,
)
from dicom_adapter.processor import JobProcessorBase, ProcessorContext, Timer
from dicom_adapter.server import Server
from dicom_adapter.settings import ByteSize, Secret, at_least, between, not_empty, setting
from dicom_adapter.storage import InstanceWriter, StorageBackend, StorageContext
from dicom_adapter.submitter import Submitter, SubmitterContext, Upload

__version__ = "0.1.0"

__all__ = [
    "ByteSize",
    "Capacity",
    "ConfigurationError",
    "DicomAdapterError",
    "InstanceStorageInfo",
    "InstanceWriter",
    "Job",
    "JobPriority",
    "JobProcessorBase",
    "JobState",
    "LaneHandle",
    "NoSettings",
    "Permanent",
    "PlatformJob",
    "PlatformStatus",
    "ProcessorContext",
    "Refused",
    "Retriable",
    "Secret",
    "Server",
    "StorageBackend",
    "StorageContext",
    "StorageFull",
    "StoredObjectMissing",
    "Submitter",
    "SubmitterContext",
    "Timer",
    "Unprocessable",
    "Upload",
    "Waiting",
    "at_least",
    "between",
    "hookimpl",
    "not_empty",
    "setting",
]
