"""`dicom-adapter emulate-platform`: run an emulated platform on this machine."""

from __future__ import annotations

import re
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind, Faults
from dicom_adapter_clara_client.emulator.record import CallLog, CallRecord
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import ClaraJobStatus, RunPlan

NUMBER_KEYS: dict[str, type] = {"times": int, "after": int, "code": int, "seconds": float}
TEXT_KEYS = {"status": "status", "pipeline": "pipeline_id", "protocol": "protocol"}  # attributes of CallFault, by key

FAULT_HELP = (
    "Make calls fail, such as 'Jobs.Create=drop,times=2' or 'Payloads.Upload=status,status=UNAVAILABLE'. "
    "Kinds: status (respond with a gRPC or HTTP status: key status), code (respond with an error code of the platform: "
    "key code), reset, drop, delay, truncate, garbage. Keys: times (default 1, 0 is always), after, seconds, status, "
    "code, pipeline, protocol. May be repeated. docs/commands.md explains kinds, keys and the names of the calls."
)

OutputFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", exists=True, file_okay=False, help="Folder whose files are outputs of each job that succeeds."
    ),
]
SecondaryCapture = Annotated[
    bool,
    typer.Option(
        "--secondary-capture",
        help="Each job that succeeds has an image as output, in the study of its first instance.",
    ),
]

FaultOption = Annotated[list[str] | None, typer.Option(metavar="CALL=KIND[,KEY=VALUE…]", help=FAULT_HELP)]


GrpcOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Serve the Clara services over gRPC; port 0 for any free port."),
]
RestOption = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Serve the REST API over HTTP; port 0 for any free port.")
]
FolderOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", file_okay=False, help="Folder for jobs and payloads; default: in memory."),
]
PipelineOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ID", help="Id of a registered pipeline; may be repeated. Default: every id is accepted."),
]
RunSecondsOption = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Seconds from a job's start to its end.")
]
EndsOption = Annotated[
    ClaraJobStatus,
    typer.Option(
        metavar="STATUS", help=f"How jobs end: {', '.join(status.value.lower() for status in ClaraJobStatus)}."
    ),
]
LogOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", dir_okay=False, help="File to which a JSON line is appended for each call."),
]
TokenOption = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", envvar="EMULATOR_TOKEN", help="Bearer token that REST clients must send."),
]


def emulate_platform(
    grpc: GrpcOption = None,
    rest: RestOption = None,
    folder: FolderOption = None,
    pipeline: PipelineOption = None,
    run_seconds: RunSecondsOption = 2.0,
    ends: EndsOption = ClaraJobStatus.HEALTHY,
    output_folder: OutputFolder = None,
    secondary_capture: SecondaryCapture = False,
    fault: FaultOption = None,
    log: LogOption = None,
    token: TokenOption = None,
) -> None:
    """Emulate an inference platform over gRPC and REST with one shared state, until SIGTERM or Ctrl-C.

    Example: dicom-adapter emulate-platform --grpc 127.0.0.1:50051 --rest 127.0.0.1:8080

    Exit status: 0 after an orderly stop; 1 if an address cannot be used; 2 if neither --grpc nor --rest is set.
    """
    if grpc is None and rest is None:
        raise typer.BadParameter("set --grpc HOST:PORT, --rest HOST:PORT, or both")
    for address in filter(None, (grpc, rest)):
        if not re.fullmatch(r".+:[0-9]{1,5}", address):
            raise typer.BadParameter(f"'{address}' is not of the form HOST:PORT, for example 127.0.0.1:50051")
    faults = Faults([_parse_fault(text) for text in fault or ()])
    # Jobs are stored with this path, and the emulator may be started again in another folder.
    outputs = output_folder and output_folder.absolute()
    run = RunPlan(seconds=run_seconds, status=ends, output_folder=outputs, secondary_capture=secondary_capture)
    platform = EmulatedPlatform(folder=folder, pipelines=pipeline or "any", run=run)
    calls = _PrintedLog(log)
    try:
        _serve(platform, grpc, rest, {"faults": faults, "log": calls}, token)
    except OSError as failure:
        typer.secho(f"error: {failure}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None


def _serve(
    platform: EmulatedPlatform, grpc: str | None, rest: str | None, shared: dict[str, Any], token: str | None
) -> None:
    # Imported only when needed, because the libraries of the servers take time to load.
    from dicom_adapter_clara_client.emulator import grpc_server, rest_server

    with ExitStack() as servers:
        if grpc is not None:
            server = servers.enter_context(grpc_server.serve(platform, grpc, **shared))
            typer.echo(f"gRPC on {server.address}")
        if rest is not None:
            typer.echo(f"REST on {servers.enter_context(rest_server.serve(platform, rest, token=token, **shared)).url}")
        _wait_for_signal()


def _wait_for_signal() -> None:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


class _PrintedLog(CallLog):
    """Call log that also prints each call to stdout."""

    def add(self, record: CallRecord) -> None:
        super().add(record)
        ids = " ".join(f"{name}={value}" for name, value in record.ids.items())
        fault = f" (fault: {record.fault})" if record.fault else ""
        typer.echo(f"{record.time:%H:%M:%S} {record.protocol:4} {record.call:20} {record.outcome.value}{fault} {ids}")


def _parse_fault(text: str) -> CallFault:
    """Parse CALL=KIND[,KEY=VALUE…]."""
    call, equals, definition = text.partition("=")
    kind, *pairs = definition.split(",")
    if not equals or kind not in {member.value for member in CallFaultKind}:
        kinds = ", ".join(member.value for member in CallFaultKind)
        raise typer.BadParameter(f"'{text}' is not of the form CALL=KIND[,KEY=VALUE…] with one of the kinds {kinds}")
    options = dict(_parse_option(pair, text) for pair in pairs)
    if options.get("times") == 0:
        options["times"] = None
    return CallFault(call=call, kind=CallFaultKind(kind), **options)


def _parse_option(pair: str, text: str) -> tuple[str, Any]:
    key, _equals, value = pair.partition("=")
    if key == "status" and value.isdigit():
        return key, int(value)  # an HTTP status; other values are names of gRPC statuses
    if key in TEXT_KEYS:
        return TEXT_KEYS[key], value
    if key not in NUMBER_KEYS:
        raise typer.BadParameter(f"'{text}': unknown key '{key}' (known: {', '.join([*NUMBER_KEYS, *TEXT_KEYS])})")
    try:
        return key, NUMBER_KEYS[key](value)
    except ValueError:
        raise typer.BadParameter(f"'{text}': {key} must be a number, not '{value}'") from None
