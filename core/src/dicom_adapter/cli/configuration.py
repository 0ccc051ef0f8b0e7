"""Functions of all commands: find and read the configuration file, and report its problems."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from attrs import frozen

from dicom_adapter.api.configuration_file import DEFAULT_NAME, VARIABLE, find_configuration
from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.messages import fail
from dicom_adapter.config import ConfigProblemKind, load, plugin_settings
from dicom_adapter.config.load import Loaded, ledger_url
from dicom_adapter.config.model import Config
from dicom_adapter.config.suggest import nearest
from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.connection import exists

if TYPE_CHECKING:
    from dicom_adapter.plugins.registry import Plugins

EXAMPLE = "two-ae-titles.toml"
FILE_HELP = f"The configuration file. Default: {VARIABLE}, or {DEFAULT_NAME} in the current folder."

ConfigArgument = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help=FILE_HELP, dir_okay=False, show_default=False)
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="CONFIG", help=FILE_HELP, dir_okay=False, show_default=False),
]


@frozen(kw_only=True)
class CheckedConfiguration:
    """The content of a configuration file with all its problems, and the plugins with which it was checked."""

    text: str
    loaded: Loaded
    plugins: Plugins

    @property
    def invalid(self) -> list[str]:
        """Problems that prevent a start of the service."""
        return [str(problem) for problem in self.loaded.problems if problem.kind is ConfigProblemKind.INVALID]

    @property
    def unavailable(self) -> list[str]:
        """Components whose plugins are missing, and plugins that cannot be used."""
        missing = [str(problem) for problem in self.loaded.problems if problem.kind is ConfigProblemKind.UNAVAILABLE]
        return missing + self.plugins.problems


def find_file(argument: Path | None, option: Path | None = None) -> Path:
    """Return the configuration file of a command. End the command if there is no file, or if two files are named."""
    if argument is not None and option is not None and argument.resolve() != option.resolve():
        raise typer.BadParameter(f"two configuration files: {argument} and --config {option}; name one of them")
    try:
        return find_configuration(argument or option)
    except Refused as refusal:
        raise fail(str(refusal)) from None


def find_optional_file(argument: Path | None, option: Path | None = None) -> Path | None:
    """Return the configuration file of a command that also works without a file; None if there is no file."""
    if option is None and argument is None and not os.environ.get(VARIABLE) and not Path(DEFAULT_NAME).exists():
        return None
    return find_file(argument, option)


def read(path: Path) -> CheckedConfiguration:
    """Read and check a configuration file. Ends the command with status 1 if the file cannot be read."""
    text = read_text(path)
    from dicom_adapter.plugins.registry import discover

    found = discover(disable=plugin_settings(text).disable)
    loaded = load(text, folder=path.resolve().parent, catalogue=found.catalogue())
    return CheckedConfiguration(text=text, loaded=loaded, plugins=found)


def read_text(path: Path) -> str:
    """Return the text of a configuration file. Ends the command with status 1 if the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise fail(f"{path}: No such file or directory; {_next_step(path)}") from None
    except OSError as failure:
        raise fail(f"{path}: {failure.strerror}") from None
    except UnicodeDecodeError:
        raise fail(f"{path}: not UTF-8, which TOML requires") from None


def _next_step(path: Path) -> str:
    """Return what to do about a configuration file that does not exist."""
    try:
        others = [other.stem for other in path.absolute().parent.glob("*.toml")]
    except OSError:
        others = []
    near = nearest(path.stem, others)
    if near:
        return f"did you mean {path.with_name(near)}.toml?"
    return f"name another file, or copy an example: cp {files('dicom_adapter') / 'examples' / EXAMPLE} {path}"


def require_valid(path: Path) -> Config:
    """Return the configuration in a file. Ends the command with status 1 and all errors if the file is not valid."""
    checked = read(path)
    if checked.loaded.config is None:
        raise fail(*checked.invalid)
    return checked.loaded.config


def open_ledger(path: Path) -> Ledger:
    """Open the ledger of a service, which may be running or stopped.

    Ends the command with status 1 if there is no ledger, or if its schema is not current.
    """
    # The URL alone is enough: the command works although another part of the file is invalid.
    url = ledger_url(read_text(path), folder=path.resolve().parent) or require_valid(path).ledger_url
    if not exists(url):
        raise fail(f"there is no ledger at {url} yet; `dicom-adapter run {path}` creates it")
    ledger = Ledger(url)
    try:
        ledger.require_current()
    except Refused as refusal:
        raise fail(str(refusal)) from None
    return ledger
