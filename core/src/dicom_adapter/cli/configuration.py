"""Functions that all commands use: find and read the configuration file, and report its problems."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from attrs import frozen

from dicom_adapter.api.configuration_file import DEFAULT_NAME, VARIABLE, find_configuration
from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.config import ConfigProblemKind, load, plugin_settings
from dicom_adapter.config.damaged import readable_ledger_url
from dicom_adapter.config.load import Loaded, ledger_url, syntax_problems
from dicom_adapter.config.model import Config
from dicom_adapter.config.suggest import nearest
from dicom_adapter.ledger import Ledger, configurations
from dicom_adapter.ledger.ledger_file import exists
from dicom_adapter.service.announcement import find_announcement

if TYPE_CHECKING:
    from dicom_adapter.plugins.registry import Plugins

NOT_UTF_8 = "not UTF-8, which TOML requires"
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


def config_option(named: Path | None) -> str:
    """Return the option for the commands that a message suggests: they need the same configuration file."""
    return "" if named is None else f" -c {shlex.quote(str(named))}"


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
    return check_text(read_text(path), path.resolve().parent)


def check_text(text: str, folder: Path) -> CheckedConfiguration:
    """Check the text of a configuration file, whose relative paths start at `folder`."""
    from dicom_adapter.plugins.registry import discover
    from dicom_adapter.runtime import pydicom_without_requests  # noqa: F401 - before a plugin loads pydicom

    found = discover(disable=plugin_settings(text).disable)
    loaded = load(text, folder=folder, catalogue=found.catalogue())
    return CheckedConfiguration(text=text, loaded=loaded, plugins=found)


def read_text(path: Path) -> str:
    """Return the text of a configuration file. Ends the command with status 1 if the file cannot be read."""
    try:
        return _text(path)
    except Refused as refusal:
        raise fail(str(refusal)) from None
    except UnicodeDecodeError:
        raise fail(f"{path}: {NOT_UTF_8}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"{path}: No such file or directory; {_next_step(path)}") from None
    except OSError as failure:
        raise Refused(f"{path}: {failure.strerror}") from None


def _next_step(path: Path) -> str:
    """Return what to do about a configuration file that does not exist."""
    try:
        others = [other.stem for other in path.absolute().parent.glob("*.toml")]
    except OSError:
        others = []
    near = nearest(path.stem, others)
    if near:
        return f"did you mean {path.with_name(near)}.toml?"
    return f"name another file, or write a new one: dicom-adapter init {shlex.quote(str(path))}"


def require_valid(path: Path) -> Config:
    """Return the configuration in a file. Ends the command with status 1 and all errors if the file is not valid."""
    checked = read(path)
    if checked.loaded.config is None:
        raise fail(*(f"{path}: {invalid}" for invalid in checked.invalid))
    return checked.loaded.config


def open_ledger(path: Path) -> Ledger:
    """Open the ledger of a service, which may be running or stopped. Warn if the configuration file is damaged.

    Ends the command with status 1 if there is no ledger, or if its schema is not current.
    """
    ledger, problems = _find_ledger(path)
    warn(*problems)
    return ledger


def open_service(path: Path) -> tuple[Ledger, CheckedConfiguration]:
    """Open the ledger of a service, and return it with the service's configuration.

    If the configuration file is damaged or not valid, print a warning, and return the configuration that the service
    used last. Ends the command with status 1 if the ledger does not contain it, or for the reasons of `open_ledger`.
    """
    ledger, problems = _find_ledger(path)
    if not problems:
        checked = read(path)
        if checked.loaded.config is not None:
            return ledger, checked
        problems = [f"{path}: {invalid}" for invalid in checked.invalid]
    with ledger.read() as transaction:
        running = configurations.running(transaction)
    last = None if running is None else check_text(running.text, Path(running.folder))
    if last is None or last.loaded.config is None:
        raise fail(*problems, f"correct {path}: the ledger has no usable configuration of an earlier start")
    warn(*problems, f"{path} is not used; the configuration that the service used last is used instead")
    return ledger, last


def _find_ledger(path: Path) -> tuple[Ledger, list[str]]:
    """Return the ledger of a service, and the problems of the configuration file. End the command without a ledger."""
    folder = path.resolve().parent
    text, problems = _readable_text(path)
    url = None if problems else ledger_url(text, folder=folder)
    if url is not None and exists(url):
        return _current(Ledger(url)), []
    if url is None and not problems:
        problems = [f"{path}: {invalid}" for invalid in check_text(text, folder).invalid]
    running = find_announcement(path)
    if running is not None and running.ledger_url != url:
        problems = problems or [f"{path}: there is no ledger at {url}"]
        found = f"the service that was started with {path} (PID {running.pid}) uses the ledger {running.ledger_url}"
        return _current(Ledger(running.ledger_url)), [*problems, found]
    if url is not None:
        raise fail(f"{path}: there is no ledger at {url} yet; `dicom-adapter run {path}` creates it")
    readable = readable_ledger_url(text, folder=folder)
    if readable is None or not exists(readable):
        raise fail(*problems)
    return _current(Ledger(readable)), [*problems, f"the readable lines of {path} name the ledger {readable}"]


def _readable_text(path: Path) -> tuple[str, list[str]]:
    """Return the text of a configuration file, as far as it can be read, and why it cannot be parsed."""
    try:
        return (text := _text(path)), [f"{path}: {problem}" for problem in syntax_problems(text)]
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", "replace"), [f"{path}: {NOT_UTF_8}"]
    except Refused as refusal:
        return "", [str(refusal)]


def _current(ledger: Ledger) -> Ledger:
    try:
        ledger.require_current()
    except Refused as refusal:
        raise fail(str(refusal)) from None
    return ledger
