"""An emulator of the inference platform for demonstrations and tests: one state, and a server for each protocol.

    platform, faults, log = EmulatedPlatform(folder=Path("/tmp/platform"), pipelines="any"), Faults(), CallLog()
    with grpc_server.serve(platform, "127.0.0.1:0", faults=faults, log=log) as server:
        faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.DROP))
        ...

`EmulatedPlatform` is the state; `Faults` fails calls on demand; `CallLog` records every call; `grpc_server` and
`rest_server` are the servers. The platform raises a `ClaraError` for a call that it refuses.
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
