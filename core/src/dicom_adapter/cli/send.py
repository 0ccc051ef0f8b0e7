"""`dicom-adapter send` and `dicom-adapter echo`: a DICOM sender (SCU) for tests and for moving files."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from attrs import define, field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import DicomAdapterError
from dicom_adapter.dicom.files import SkippedFile, find_dicom
from dicom_adapter.net.address import Address, InvalidAddress, parse_address, parse_ae_title
from dicom_adapter.net.results import DEFAULT_TIMEOUT, Grouping, SendResult, SendSummary
from dicom_adapter.net.tls import UnusableCertificate, client_context

LISTED = 20  # number of failures that the text lists; --json has all failures

ValueT = TypeVar("ValueT")


def _parser(parse: Callable[[str], ValueT]) -> Callable[[str], ValueT]:
    """Return `parse` as an option parser: an invalid value is a usage error."""

    def checked(text: str) -> ValueT:
        try:
            return parse(text)
        except InvalidAddress as refusal:
            raise typer.BadParameter(str(refusal)) from None

    return checked


Peer = Annotated[
    Any,
    typer.Option(
        "--to",
        parser=_parser(parse_address),
        metavar="AET@HOST:PORT",
        help="AE title, host and port of the peer, such as LUNG@localhost:11112 or LUNG@[::1]:11112.",
    ),
]
Caller = Annotated[
    Any,
    typer.Option("--from", parser=_parser(parse_ae_title), metavar="AET", help="The calling AE title."),
]
Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, help="Seconds to wait for a connection and for each response.")
]
Tls = Annotated[bool, typer.Option("--tls", help="Connect with TLS.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --tls: PEM file of the trusted certificate authorities, instead of the system's authorities.",
        dir_okay=False,
    ),
]
TlsCertificate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With --tls: PEM file of the client certificate.", dir_okay=False)
]
TlsKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="PEM file of the client certificate's private key. Default: the key is in --tls-certificate.",
        dir_okay=False,
    ),
]


def send(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", exists=True, help="DICOM files, and folders to search for them.")
    ],
    to: Peer,
    calling: Caller = "DICOM-ADAPTER",
    association_per_study: Annotated[
        bool, typer.Option("--association-per-study", help="Open an association for each study.")
    ] = False,
    association_per_instance: Annotated[
        bool, typer.Option("--association-per-instance", help="Open an association for each file.")
    ] = False,
    timeout: Timeout = DEFAULT_TIMEOUT,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object with the result.")] = False,
) -> None:
    """Send DICOM files to a peer (C-STORE), exactly as they are encoded.

    Folders are searched recursively. Files that are not DICOM, hidden files and DICOMDIR are skipped.

    Example: dicom-adapter send ~/studies --to LUNG@localhost:11112

    After Ctrl-C, the command stops sending and prints how many files were sent.

    Exit status: 0 if all files were sent; 1 if a file was not sent, also after Ctrl-C, or no file was found.
    """
    grouping = _grouping(association_per_study, association_per_instance)
    from dicom_adapter.net import link, scu  # load pynetdicom, which other commands do not need

    link.silence_pynetdicom()
    context = _tls_context(tls, tls_ca, tls_certificate, tls_key)
    found = _find(paths)
    started = time.monotonic()
    with _Bar(total=len(found.files)) as bar:
        summary = scu.send(
            found.files,
            to,
            calling_ae_title=calling,
            per_association=grouping,
            timeout=timeout,
            tls=context,
            on_result=bar.advance,
        )
    report = _Report(to=to, found=found, summary=summary, seconds=time.monotonic() - started)
    report.print_json() if as_json else report.print()
    if report.failures or not found.files:
        raise typer.Exit(1)


def echo(
    to: Peer,
    calling: Caller = "DICOM-ADAPTER",
    timeout: Timeout = DEFAULT_TIMEOUT,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
) -> None:
    """Verify the connection to a peer (C-ECHO).

    Example: dicom-adapter echo --to LUNG@localhost:11112

    Exit status: 0 if the peer answered, 1 otherwise; the reason is on stderr.
    """
    from dicom_adapter.net import link, scu  # load pynetdicom, which other commands do not need

    link.silence_pynetdicom()
    context = _tls_context(tls, tls_ca, tls_certificate, tls_key)
    try:
        seconds = scu.echo(to, calling, timeout, context)
    except DicomAdapterError as failure:
        typer.echo(str(failure), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{to} answered in {max(1, round(seconds * 1000))} ms")


def _tls_context(
    is_wanted: bool, authorities: Path | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext | None:
    if not is_wanted:
        if authorities or certificate or key:
            raise typer.BadParameter("--tls-ca, --tls-certificate and --tls-key need --tls")
        return None
    if key and not certificate:
        raise typer.BadParameter("--tls-key needs --tls-certificate")
    try:
        return client_context(authorities, certificate, key)
    except UnusableCertificate as refusal:
        raise typer.BadParameter(str(refusal)) from None


def _grouping(per_study: bool, per_instance: bool) -> Grouping | None:
    if per_study and per_instance:
        raise typer.BadParameter("--association-per-study and --association-per-instance exclude each other")
    if per_study:
        return Grouping.STUDY
    return Grouping.INSTANCE if per_instance else None


@define
class _Found:
    files: list[Path] = field(factory=list)
    skipped: int = 0
    invalid: list[SendResult] = field(factory=list)  # paths that the user named and that are not DICOM files

    def skip(self, file: SkippedFile) -> None:
        if file.is_failure:
            self.invalid.append(SendResult(path=file.path, ok=False, message=file.reason))
        else:
            self.skipped += 1


def _find(paths: list[Path]) -> _Found:
    found = _Found()
    found.files.extend(find_dicom(paths, found.skip))
    return found


class _Bar:
    """A progress bar on stderr, if it is a terminal."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        rate = TextColumn("{task.fields[rate]:.0f} files/s")
        columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("sending", total=total, rate=0.0)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, _result: SendResult) -> None:
        self._progress.update(self._task, advance=1, rate=self._progress.tasks[0].speed or 0.0)


@define(kw_only=True)
class _Report:
    to: Address
    found: _Found
    summary: SendSummary
    seconds: float

    @property
    def failures(self) -> list[SendResult]:
        return [*self.found.invalid, *self.summary.failures]

    def print(self) -> None:
        individual = [
            failure for failure in self.failures if failure.message != self.summary.gave_up
        ]  # failures with a reason of their own
        for failure in individual[:LISTED]:
            typer.echo(f"not sent: {failure.path}: {failure.message}", err=True)
        if len(individual) > LISTED:
            typer.echo(f"not sent: {len(individual) - LISTED} more", err=True)
        if self.summary.gave_up:  # one line for all files that share this reason
            typer.echo(
                f"stopped; {counted(len(self.failures) - len(individual), 'file')} not sent: {self.summary.gave_up}",
                err=True,
            )
        typer.echo(self._line())

    def _line(self) -> str:
        if not self.found.files:
            return f"nothing to send: no DICOM files found, {counted(self.found.skipped, 'other file')} skipped"
        parts = [f"{self.summary.sent} of {len(self.found.files) + len(self.found.invalid)} files sent to {self.to}"]
        if self.summary.warnings:
            parts.append(f"{self.summary.warnings} with a warning")
        if self.found.skipped:
            parts.append(f"{counted(self.found.skipped, 'other file')} skipped")
        parts.append(f"{self.seconds:.1f} s")
        return ", ".join(parts)

    def print_json(self) -> None:
        result = {
            "to": str(self.to),
            "sent": self.summary.sent,
            "warnings": self.summary.warnings,
            "failed": len(self.failures),
            "skipped": self.found.skipped,
            "associations": self.summary.associations,
            "seconds": round(self.seconds, 3),
            "gaveUp": self.summary.gave_up,
            "failures": [
                {"path": str(failure.path), "status": failure.status, "message": failure.message}
                for failure in self.failures
            ],
        }
        typer.echo(json.dumps(result))
