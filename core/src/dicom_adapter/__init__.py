"""dicom-adapter: receives DICOM, keeps every instance it acknowledges, and turns instances into inference jobs.

This is the public interface: a plugin imports `dicom_adapter` and `dicom_adapter.testing`, and nothing deeper.
"""

from dicom_adapter.api.certificates import Certificate, certificate_of_server, certificates_in_file
from dicom_adapter.api.configuration_file import find_configuration
from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import (
    ConfigurationError,
    DicomAdapterError,
    Permanent,
    Refused,
    Retriable,
    StorageFull,
    StorageUnavailable,
    StoredObjectMissing,
    Unprocessable,
)
from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.api.lane import LaneHandle
from dicom_adapter.api.notifier import Notice, NoticeKind, Notification, Notifier, NotifierContext
from dicom_adapter.api.processor import JobProcessorBase, ProcessorContext, Timer
from dicom_adapter.api.server import Server
from dicom_adapter.api.settings import (
    ByteSize,
    PipelineReference,
    Secret,
    SubmitterReference,
    at_least,
    between,
    not_empty,
    setting,
)
from dicom_adapter.api.storage import InstanceWriter, StorageBackend, StorageContext, StorageMark
from dicom_adapter.api.submitter import AttachmentUpload, Output, Submitter, SubmitterContext, Upload
from dicom_adapter.api.values import (
    INTERRUPTED,
    AssociationReport,
    AssociationStatus,
    Capacity,
    InstanceStorageInfo,
    Job,
    JobPriority,
    JobRequest,
    JobState,
    PlatformJob,
    PlatformStatus,
    Waiting,
)

__version__ = "0.1.0"

__all__ = [
    "INTERRUPTED",
    "AssociationReport",
    "AssociationStatus",
    "AttachmentUpload",
    "ByteSize",
    "Capacity",
    "Certificate",
    "ConfigurationError",
    "DicomAdapterError",
    "InstanceStorageInfo",
    "InstanceWriter",
    "Job",
    "JobPriority",
    "JobProcessorBase",
    "JobRequest",
    "JobState",
    "LaneHandle",
    "NoSettings",
    "Notice",
    "NoticeKind",
    "Notification",
    "Notifier",
    "NotifierContext",
    "Output",
    "Permanent",
    "PipelineReference",
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
    "StorageMark",
    "StorageUnavailable",
    "StoredObjectMissing",
    "Submitter",
    "SubmitterContext",
    "SubmitterReference",
    "Timer",
    "Unprocessable",
    "Upload",
    "Waiting",
    "at_least",
    "between",
    "certificate_of_server",
    "certificates_in_file",
    "find_configuration",
    "hookimpl",
    "not_empty",
    "setting",
]
