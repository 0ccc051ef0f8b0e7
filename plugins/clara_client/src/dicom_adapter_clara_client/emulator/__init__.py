"""An emulator of the inference platform, for trying and for tests: one state, and a face for each protocol.

    platform, faults, log = EmulatedPlatform(folder=Path("/tmp/platform"), pipelines="any"), Faults(), CallLog()
    with grpc_face.serve(platform, "127.0.0.1:0", faults=faults, log=log) as server:
        faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.DROP))
        ...

`EmulatedPlatform` is the state, `Faults` fails calls on demand, `CallLog` keeps a record of every call; `grpc_face` and
`rest_face` serve them. What the platform refuses it raises as a `ClaraError`.
"""

from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind, Faults
from dicom_adapter_clara_client.emulator.record import CallLog, CallOutcome, CallRecord
from dicom_adapter_clara_client.emulator.rules import (
    ClaraError,
    Conflict,
    InvalidValue,
    MalformedId,
    NotFound,
    PlatformFailure,
)
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import (
    ClaraJob,
    ClaraJobState,
    ClaraJobStatus,
    ClaraPayload,
    ClaraPipeline,
    JobFilter,
    PayloadFile,
    PayloadType,
    PipelineFile,
    PlatformVersion,
    RunPlan,
)

__all__ = [
    "CallFault",
    "CallFaultKind",
    "CallLog",
    "CallOutcome",
    "CallRecord",
    "ClaraError",
    "ClaraJob",
    "ClaraJobState",
    "ClaraJobStatus",
    "ClaraPayload",
    "ClaraPipeline",
    "Conflict",
    "EmulatedPlatform",
    "Faults",
    "InvalidValue",
    "JobFilter",
    "MalformedId",
    "NotFound",
    "PayloadFile",
    "PayloadType",
    "PipelineFile",
    "PlatformFailure",
    "PlatformVersion",
    "RunPlan",
]
