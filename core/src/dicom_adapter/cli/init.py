"""`dicom-adapter init`."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from attrs import frozen

from dicom_adapter.api.configuration_file import DEFAULT_NAME, VARIABLE
from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.configuration import check_text
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.cli.new_configuration import NewConfiguration, PipelineKind, example_pipeline, pipeline_id
from dicom_adapter.net.address import Address, parse_address, parse_ae_title

DEFAULT_AE_TITLE = "DICOM-ADAPTER"
DEFAULT_PORT = 11112
DEFAULT_FOLDER = "data"
LOCAL = "127.0.0.1"
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
FILE_HELP = f"The file to write. Default: {VARIABLE}, or {DEFAULT_NAME} in the current folder."

T = TypeVar("T")


FileArgument = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help=FILE_HELP, dir_okay=False, show_default=False)
]
AeTitleOption = Annotated[
    list[str] | None,
    typer.Option(metavar="AET", help=f"AE title to which studies are sent; repeatable. Default: {DEFAULT_AE_TITLE}."),
]
PortOption = Annotated[
    int | None, typer.Option(metavar="PORT", min=1, max=65535, help=f"TCP port for DICOM. Default: {DEFAULT_PORT}.")
]
CommandOption = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Pipeline: a command and its arguments; {input} and {output} are the folders of a job.",
    ),
]
PacsOption = Annotated[
    str | None,
    typer.Option(
        metavar="AET@HOST:PORT",
        help="DICOM node that gets the results. Default: none; then `results` lists and exports them.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help=f"Data folder, relative to the folder of the file. Default: {DEFAULT_FOLDER}."),
]


def init(
    file: FileArgument = None,
    ae_title: AeTitleOption = None,
    port: PortOption = None,
    command: CommandOption = None,
    image: Annotated[str | None, typer.Option(metavar="IMAGE", help="Pipeline: the name of a container image.")] = None,
    pacs: PacsOption = None,
    data: DataOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: omitted options have their defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a configuration with comments, and show the next commands.

    The command asks for the options that are omitted, if its input is a terminal. Without a pipeline, the example
    pipeline is configured, which makes an image and a report for each study.

    Exit status: 0 if the file was written, 1 if not, 2 if the arguments are not valid.
    """
    path = file or Path(os.environ.get(VARIABLE) or DEFAULT_NAME)
    if path.exists() and not force:
        raise fail(f"{path} exists and was not changed; name another file, or replace it with --force")
    if command is not None and image is not None:
        raise typer.BadParameter("a pipeline is a command or an image: name one of them", param_hint="--image")
    given = Given(ae_titles=ae_title, port=port, command=command, image=image, pacs=pacs, data=data)
    asks = sys.stdin.isatty() and not yes
    wanted = ask(given.validated()) if asks else given.validated()
    text = wanted.configuration().text()
    checked = check_text(text, path.absolute().parent)
    if checked.invalid:
        raise fail(*checked.invalid)
    _write(path, text, force=force)
    warn(*checked.unavailable)
    typer.echo(f"{path} is written. Next:\n")
    for line in _next_commands(path, wanted):
        typer.echo(f"  {line}")


@frozen(kw_only=True)
class Given:
    """The options as they were given; None if omitted."""

    ae_titles: list[str] | None
    port: int | None
    command: str | None
    image: str | None
    pacs: str | None
    data: str | None

    def validated(self) -> Wanted:
        """Return the values of the options. Raises BadParameter with the name of the option."""
        return Wanted(
            ae_titles=_option("--ae-title", parse_ae_titles, ",".join(self.ae_titles)) if self.ae_titles else None,
            port=self.port,
            command=_option("--command", parse_command, self.command),
            image=_option("--image", parse_image, self.image),
            pacs=_option("--pacs", parse_address, self.pacs),
            data=_option("--data", parse_folder, self.data),
        )


@frozen(kw_only=True)
class Wanted:
    """Valid values; None if they are not known."""

    ae_titles: list[str] | None = None
    port: int | None = None
    command: list[str] | None = None
    image: str | None = None
    pacs: Address | None = None
    data: str | None = None

    @property
    def called(self) -> list[str]:
        return self.ae_titles or [DEFAULT_AE_TITLE]

    def configuration(self) -> NewConfiguration:
        """Return the configuration with these values, and with the defaults of the others."""
        kind, value = PipelineKind.COMMAND, example_pipeline()
        if self.command is not None:
            value = self.command
        elif self.image is not None:
            kind, value = PipelineKind.IMAGE, [self.image]
        return NewConfiguration(
            ae_titles=self.called,
            port=self.port or DEFAULT_PORT,
            kind=kind,
            pipeline=value,
            pipeline_id=pipeline_id(kind, value),
            pacs=self.pacs,
            data=self.data or DEFAULT_FOLDER,
        )


# --- questions --------------------------------------------------------------------------------------------------------


def ask(known: Wanted) -> Wanted:
    """Ask for the values that are not known. An answer that is not valid is asked for again."""
    typer.echo("Press Enter for the answer in brackets. Ctrl-C ends the command, and nothing is\nwritten.\n")
    called = known.ae_titles or _ask(
        "AE titles to which studies are sent, separated by commas", DEFAULT_AE_TITLE, parse_ae_titles
    )
    port = known.port or _ask("TCP port for DICOM", str(DEFAULT_PORT), parse_port)
    command, image = known.command, known.image
    if command is None and image is None:
        kind = _ask("Pipeline: command, image, or none for the example", "none", parse_pipeline_kind)
        if kind == "command":
            typer.echo("{input} and {output} are the folders of a job. No shell reads the command.")
            command = _ask("Command and arguments", None, parse_command)
        elif kind == "image":
            image = _ask("Name of the image", None, parse_image)
    pacs = known.pacs or _ask("PACS that gets the results, as AET@HOST:PORT, or none", "none", parse_pacs)
    data = known.data or _ask("Data folder", DEFAULT_FOLDER, parse_folder)
    typer.echo()
    return Wanted(ae_titles=called, port=port, command=command, image=image, pacs=pacs, data=data)


def _ask(question: str, default: str | None, parse: Callable[[str], T]) -> T:
    def checked(answer: str) -> T:
        try:
            return parse(answer.strip())
        except (Refused, ValueError) as problem:
            raise typer.BadParameter(str(problem)) from None  # the question is repeated

    answer: T = typer.prompt(question, default=default, value_proc=checked)
    return answer


def _option(name: str, parse: Callable[[str], T], value: str | None) -> Any:
    try:
        return None if value is None else parse(value)
    except (Refused, ValueError) as problem:
        raise typer.BadParameter(str(problem), param_hint=name) from None


# --- values: each function raises ValueError or Refused with the rule -------------------------------------------------


def parse_ae_titles(text: str) -> list[str]:
    found = [parse_ae_title(part) for part in text.split(",")]
    if len(set(found)) < len(found):
        raise ValueError("an AE title is named twice")
    return found


def parse_port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"'{text}' must be a number from 1 to 65535")
    return int(text)


def parse_pipeline_kind(text: str) -> str:
    if text not in ("command", "image", "none"):
        raise ValueError(f"'{text}' must be command, image or none")
    return text


def parse_command(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as problem:
        raise ValueError(f"a quotation mark or an escape is not complete ({problem})") from None
    if not words or not words[0]:
        raise ValueError('must begin with a program, for example "/opt/lung/run {input} {output}"')
    return words


def parse_image(text: str) -> str:
    if not IMAGE.fullmatch(text):
        raise ValueError(f"'{text}' must be the name of an image, for example registry.example/lung:1.2")
    return text


def parse_pacs(text: str) -> Address | None:
    return None if text == "none" else parse_address(text)


def parse_folder(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("must be a path without control characters")
    return text


# --- the file ---------------------------------------------------------------------------------------------------------


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        if force:
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        else:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as failure:
        raise fail(f"{path}: {failure.strerror}; nothing was written") from None


def _next_commands(path: Path, wanted: Wanted) -> Iterator[str]:
    is_found = path == Path(os.environ.get(VARIABLE) or DEFAULT_NAME)
    argument = "" if is_found else f" {shlex.quote(str(path))}"
    option = "" if is_found else f" -c {shlex.quote(str(path))}"
    peer = shlex.quote(str(Address(ae_title=wanted.called[0], host=LOCAL, port=wanted.port or DEFAULT_PORT)))
    yield f"dicom-adapter check{argument} --connect"
    yield f"dicom-adapter run{argument}"
    yield "dicom-adapter synthesize studies     # in another terminal"
    yield f"dicom-adapter send studies --to {peer}"
    yield f"dicom-adapter jobs watch{option}"
    yield f"dicom-adapter results list{option}"
