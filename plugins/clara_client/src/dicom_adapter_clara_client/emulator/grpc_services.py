"""The gRPC services of the Clara Platform API. They call the emulated platform, which raises an error for each refusal.

Request headers are ignored: NVIDIA's own client omits them in half of its calls.
"""

# The methods have the names of the API, and some do not need their request or context.
# ruff: noqa: N802, ARG002

from __future__ import annotations

from collections.abc import Iterator

import grpc

from dicom_adapter_clara_client.emulator import grpc_messages as convert
from dicom_adapter_clara_client.emulator.rules import InvalidValue, MalformedId
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import ClaraPayload, ClaraPipeline, PayloadFile, PipelineFile
from dicom_adapter_clara_client.wire import clara_pb2, jobs_pb2, payloads_pb2, pipelines_pb2
from dicom_adapter_clara_client.wire.clara_pb2_grpc import ClaraServicer
from dicom_adapter_clara_client.wire.codes import ClaraCode
from dicom_adapter_clara_client.wire.common_pb2 import Version
from dicom_adapter_clara_client.wire.jobs_pb2_grpc import JobsServicer
from dicom_adapter_clara_client.wire.payloads_pb2_grpc import PayloadsServicer
from dicom_adapter_clara_client.wire.pipelines_pb2_grpc import PipelinesServicer

PIECE_BYTES = 1 << 20  # data per message of a download, as on NVIDIA's platform by default
Context = grpc.ServicerContext


class JobsService(JobsServicer):
    """nvidia.clara.platform.Jobs"""

    def __init__(self, platform: EmulatedPlatform) -> None:
        self._platform = platform

    def Create(self, request: jobs_pb2.JobsCreateRequest, context: Context) -> jobs_pb2.JobsCreateResponse:
        job = self._platform.create_job(
            request.pipeline_id.value,
            request.name,
            priority=convert.priority_of(request.priority),
            metadata=request.metadata,
            input_payloads=[payload.value for payload in request.input_payloads],
        )
        return jobs_pb2.JobsCreateResponse(
            header=convert.success_header(),
            job_id=convert.identifier(job.job_id),
            payload_id=convert.identifier(job.payload_id),
        )

    def Start(self, request: jobs_pb2.JobsStartRequest, context: Context) -> jobs_pb2.JobsStartResponse:
        variables = {variable.name: variable.value for variable in request.Variables}
        job = self._platform.jobs.start(request.job_id.value, variables)
        return jobs_pb2.JobsStartResponse(
            header=convert.success_header(),
            state=convert.STATES[job.state],
            status=convert.STATUSES[job.status],
            priority=convert.PRIORITIES[job.priority],
        )

    def Status(self, request: jobs_pb2.JobsStatusRequest, context: Context) -> jobs_pb2.JobsStatusResponse:
        return convert.status_answer(self._platform.jobs.status(request.job_id.value))

    def Cancel(self, request: jobs_pb2.JobsCancelRequest, context: Context) -> jobs_pb2.JobsCancelResponse:
        job = self._platform.jobs.cancel(request.job_id.value, request.reason)
        return jobs_pb2.JobsCancelResponse(
            header=convert.success_header(),
            job_id=convert.identifier(job.job_id),
            job_state=convert.STATES[job.state],
            job_status=convert.STATUSES[job.status],
        )

    def List(self, request: jobs_pb2.JobsListRequest, context: Context) -> Iterator[jobs_pb2.JobsListResponse]:
        jobs = self._platform.jobs.list(convert.filter_of(request.filter))
        if not jobs:
            yield jobs_pb2.JobsListResponse(header=convert.success_header())
        yield from map(convert.list_answer, jobs)

    def AddMetadata(
        self, request: jobs_pb2.JobsAddMetadataRequest, context: Context
    ) -> jobs_pb2.JobsAddMetadataResponse:
        job = self._platform.jobs.add_metadata(request.job_id.value, request.metadata)
        return jobs_pb2.JobsAddMetadataResponse(
            header=convert.success_header(), job_id=convert.identifier(job.job_id), metadata=job.metadata
        )

    def RemoveMetadata(
        self, request: jobs_pb2.JobsRemoveMetadataRequest, context: Context
    ) -> jobs_pb2.JobsRemoveMetadataResponse:
        job = self._platform.jobs.remove_metadata(request.job_id.value, request.keys)
        return jobs_pb2.JobsRemoveMetadataResponse(
            header=convert.success_header(), job_id=convert.identifier(job.job_id), metadata=job.metadata
        )

    def ReadLogs(
        self, request: jobs_pb2.JobsReadLogsRequest, context: Context
    ) -> Iterator[jobs_pb2.JobsReadLogsResponse]:
        """Return empty logs: emulated jobs do not run the operators (programs) of their pipeline."""
        job = self._platform.jobs.status(request.job_id.value)
        yield jobs_pb2.JobsReadLogsResponse(
            header=convert.success_header(), job_id=convert.identifier(job.job_id), operator_name=request.operator_name
        )


class PayloadsService(PayloadsServicer):
    """nvidia.clara.platform.Payloads"""

    def __init__(self, platform: EmulatedPlatform) -> None:
        self._payloads = platform.payloads

    def Create(
        self, request: payloads_pb2.PayloadsCreateRequest, context: Context
    ) -> payloads_pb2.PayloadsCreateResponse:
        payload = self._payloads.create(request.metadata)
        return payloads_pb2.PayloadsCreateResponse(
            header=convert.success_header(),
            payload_id=convert.identifier(payload.payload_id),
            type=convert.TYPES[payload.type],
        )

    def Details(
        self, request: payloads_pb2.PayloadsDetailsRequest, context: Context
    ) -> Iterator[payloads_pb2.PayloadsDetailsResponse]:
        """Yield one message for each file. Only the first has the header and the metadata."""
        payload = self._payloads.details(request.payload_id.value)
        yield _details_answer(payload, payload.files[0] if payload.files else None, first=True)
        for file in payload.files[1:]:
            yield _details_answer(payload, file, first=False)

    def Upload(
        self, request_iterator: Iterator[payloads_pb2.PayloadsUploadRequest], context: Context
    ) -> payloads_pb2.PayloadsUploadResponse:
        """Store a file. The sizes in the messages are ignored, because some clients send the size of the piece."""
        first = next(request_iterator, None)
        if first is None:
            raise MalformedId(
                ClaraCode.PAYLOAD_ID_MALFORMED, "an upload must have at least one message, even for an empty file"
            )
        name, mode = first.details.name, first.details.mode
        with self._payloads.receive(first.payload_id.value, name, mode=mode) as incoming:
            incoming.write(first.data)
            for piece in request_iterator:
                if (piece.payload_id, piece.details.name) != (first.payload_id, name):
                    rule = "every message of an upload must repeat payload_id and details.name"
                    raise InvalidValue(ClaraCode.FILE_NAME_INVALID, rule)
                incoming.write(piece.data)
            file = incoming.commit()
        return payloads_pb2.PayloadsUploadResponse(header=convert.success_header(), details=convert.file_details(file))

    def Download(
        self, request: payloads_pb2.PayloadsDownloadRequest, context: Context
    ) -> Iterator[payloads_pb2.PayloadsDownloadResponse]:
        file, reader = self._payloads.download(request.payload_id.value, request.name)
        with reader:
            yield payloads_pb2.PayloadsDownloadResponse(
                header=convert.success_header(), details=convert.file_details(file), data=reader.read(PIECE_BYTES)
            )
            while data := reader.read(PIECE_BYTES):
                yield payloads_pb2.PayloadsDownloadResponse(data=data)

    def Remove(
        self, request: payloads_pb2.PayloadsRemoveRequest, context: Context
    ) -> payloads_pb2.PayloadsRemoveResponse:
        self._payloads.remove(request.payload_id.value, request.name)
        return payloads_pb2.PayloadsRemoveResponse(header=convert.success_header())

    def Delete(
        self, request: payloads_pb2.PayloadsDeleteRequest, context: Context
    ) -> payloads_pb2.PayloadsDeleteResponse:
        self._payloads.delete(request.payload_id.value)
        return payloads_pb2.PayloadsDeleteResponse(header=convert.success_header())

    def AddMetadata(
        self, request: payloads_pb2.PayloadsAddMetadataRequest, context: Context
    ) -> payloads_pb2.PayloadsAddMetadataResponse:
        payload = self._payloads.add_metadata(request.payload_id.value, request.metadata)
        return payloads_pb2.PayloadsAddMetadataResponse(
            header=convert.success_header(),
            payload_id=convert.identifier(payload.payload_id),
            metadata=payload.metadata,
        )

    def RemoveMetadata(
        self, request: payloads_pb2.PayloadsRemoveMetadataRequest, context: Context
    ) -> payloads_pb2.PayloadsRemoveMetadataResponse:
        payload = self._payloads.remove_metadata(request.payload_id.value, request.keys)
        return payloads_pb2.PayloadsRemoveMetadataResponse(
            header=convert.success_header(),
            payload_id=convert.identifier(payload.payload_id),
            metadata=payload.metadata,
        )


class PipelinesService(PipelinesServicer):
    """nvidia.clara.platform.Pipelines"""

    def __init__(self, platform: EmulatedPlatform) -> None:
        self._pipelines = platform.pipelines

    def Create(
        self, request_iterator: Iterator[pipelines_pb2.PipelinesCreateRequest], context: Context
    ) -> pipelines_pb2.PipelinesCreateResponse:
        messages = list(request_iterator)
        first = messages[0] if messages else pipelines_pb2.PipelinesCreateRequest()
        pipeline = self._pipelines.create(_pieces(messages), first.metadata, first.pipeline_id.value)
        return pipelines_pb2.PipelinesCreateResponse(
            header=convert.success_header(), pipeline_id=convert.identifier(pipeline.pipeline_id)
        )

    def Update(
        self, request_iterator: Iterator[pipelines_pb2.PipelinesUpdateRequest], context: Context
    ) -> pipelines_pb2.PipelinesUpdateResponse:
        messages = list(request_iterator)
        if len({message.pipeline_id.value.lower() for message in messages}) > 1:
            raise InvalidValue(ClaraCode.PIPELINE_NOT_UPDATED, "every message of an update must name the same pipeline")
        self._pipelines.update(messages[0].pipeline_id.value if messages else "", _pieces(messages))
        return pipelines_pb2.PipelinesUpdateResponse(header=convert.success_header())

    def List(
        self, request: pipelines_pb2.PipelinesListRequest, context: Context
    ) -> Iterator[pipelines_pb2.PipelinesListResponse]:
        pipelines = self._pipelines.list()
        if not pipelines:
            yield pipelines_pb2.PipelinesListResponse(header=convert.success_header())
        for pipeline in pipelines:
            yield pipelines_pb2.PipelinesListResponse(
                header=convert.success_header(),
                details=pipelines_pb2.PipelinesListResponse.PipelineDetails(
                    pipeline_id=convert.identifier(pipeline.pipeline_id), name=pipeline.name, metadata=pipeline.metadata
                ),
            )

    def Details(
        self, request: pipelines_pb2.PipelinesDetailsRequest, context: Context
    ) -> Iterator[pipelines_pb2.PipelinesDetailsResponse]:
        """Yield one message for each file, without `dag`: the definition's operators are not parsed."""
        pipeline = self._pipelines.details(request.pipeline_id.value)
        for file in pipeline.files or (None,):
            yield _definition_answer(pipeline, file)

    def Remove(
        self, request: pipelines_pb2.PipelinesRemoveRequest, context: Context
    ) -> pipelines_pb2.PipelinesRemoveResponse:
        self._pipelines.remove(request.pipeline_id.value)
        return pipelines_pb2.PipelinesRemoveResponse(header=convert.success_header())

    def AddMetadata(
        self, request: pipelines_pb2.PipelinesAddMetadataRequest, context: Context
    ) -> pipelines_pb2.PipelinesAddMetadataResponse:
        pipeline = self._pipelines.add_metadata(request.pipeline_id.value, request.metadata)
        return pipelines_pb2.PipelinesAddMetadataResponse(
            header=convert.success_header(),
            pipeline_id=convert.identifier(pipeline.pipeline_id),
            metadata=pipeline.metadata,
        )

    def RemoveMetadata(
        self, request: pipelines_pb2.PipelinesRemoveMetadataRequest, context: Context
    ) -> pipelines_pb2.PipelinesRemoveMetadataResponse:
        pipeline = self._pipelines.remove_metadata(request.pipeline_id.value, request.keys)
        return pipelines_pb2.PipelinesRemoveMetadataResponse(
            header=convert.success_header(),
            pipeline_id=convert.identifier(pipeline.pipeline_id),
            metadata=pipeline.metadata,
        )


class ClaraService(ClaraServicer):
    """nvidia.clara.platform.Clara, for a platform without GPUs that clients cannot stop."""

    def __init__(self, platform: EmulatedPlatform) -> None:
        self._version = platform.version

    def Version(self, request: clara_pb2.ClaraVersionRequest, context: Context) -> clara_pb2.ClaraVersionResponse:
        version = self._version
        message = Version(major=version.major, minor=version.minor, patch=version.patch, label=version.label)
        return clara_pb2.ClaraVersionResponse(header=convert.success_header(), version=message)

    def Utilization(
        self, request: clara_pb2.ClaraUtilizationRequest, context: Context
    ) -> Iterator[clara_pb2.ClaraUtilizationResponse]:
        yield clara_pb2.ClaraUtilizationResponse(header=convert.success_header())

    def Stop(self, request: clara_pb2.ClaraStopRequest, context: Context) -> clara_pb2.ClaraStopResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "clients cannot stop the emulator")


def _details_answer(
    payload: ClaraPayload, file: PayloadFile | None, *, first: bool
) -> payloads_pb2.PayloadsDetailsResponse:
    return payloads_pb2.PayloadsDetailsResponse(
        header=convert.success_header() if first else None,
        payload_id=convert.identifier(payload.payload_id),
        file=None if file is None else convert.file_details(file),
        type=convert.TYPES[payload.type],
        job_id=convert.identifier(payload.job_id),
        metadata=payload.metadata if first else None,
    )


def _definition_answer(pipeline: ClaraPipeline, file: PipelineFile | None) -> pipelines_pb2.PipelinesDetailsResponse:
    return pipelines_pb2.PipelinesDetailsResponse(
        header=convert.success_header(),
        pipeline_id=convert.identifier(pipeline.pipeline_id),
        name=pipeline.name,
        definition=None if file is None else pipelines_pb2.PipelineDefinitionFile(path=file.path, content=file.content),
        metadata=pipeline.metadata,
    )


def _pieces(
    messages: list[pipelines_pb2.PipelinesCreateRequest] | list[pipelines_pb2.PipelinesUpdateRequest],
) -> Iterator[PipelineFile]:
    return (
        PipelineFile(path=message.definition.path, content=message.definition.content)
        for message in messages
        if message.HasField("definition")
    )
