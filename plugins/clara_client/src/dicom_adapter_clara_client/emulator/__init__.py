"""An emulator of the inference platform, for trying and for tests: one state, and a face for each protocol.

    platform, faults, log = Platform(folder=Path("/tmp/platform"), pipelines="any"), Faults(), CallLog()
    with grpc_face.serve(platform, "127.0.0.1:0", faults=faults, log=log) as server:
        faults.add(Fault(call="Jobs.Create", kind=FaultKind.DROP))
        ...

`Platform` is the state, `Faults` fails calls on demand, `CallLog` keeps a record of every call; `grpc_face` and
`rest_face` serve them. What the platform refuses it raises as a `ClaraError`.
"""

from dicom_adapter_clara_client.emulator.faults import Fault, FaultKind, Faults
from dicom_adapter_clara_client.emulator.record import CallLog, CallRecord, Outcome
from dicom_adapter_clara_client.emulator.rules import Broken, ClaraError, Conflict, Invalid, Malformed, NotFound
from dicom_adapter_clara_client.emulator.state import Platform
from dicom_adapter_clara_client.emulator.values import (
    ClaraJob,
    ClaraPayload,
    ClaraPipeline,
    JobFilter,
    JobState,
    JobStatus,
    PayloadType,
    PipelineFile,
    PlatformVersion,
    Run,
    StoredFile,
)

__all__ = [
    "Broken",
    "CallLog",
    "CallRecord",
    "ClaraError",
    "ClaraJob",
    "ClaraPayload",
    "ClaraPipeline",
    "Conflict",
    "Fault",
    "FaultKind",
    "Faults",
    "Invalid",
    "JobFilter",
    "JobState",
    "JobStatus",
    "Malformed",
    "NotFound",
    "Outcome",
    "PayloadType",
    "PipelineFile",
    "Platform",
    "PlatformVersion",
    "Run",
    "StoredFile",
]
