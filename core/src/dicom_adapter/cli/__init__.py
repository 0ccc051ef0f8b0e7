"""The command line, `dicom-adapter`. A command's module is imported only when the command is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from attrs import frozen

from dicom_adapter import __version__
from dicom_adapter.cli import core_dumps, early_signals, help_text
from dicom_adapter.cli.streams import OutputFailed, failures_on_one_line, open_streams

if TYPE_CHECKING:
    app: typer.Typer  # command line with all commands of the core; created by `__getattr__`


@frozen
class CommandEntry:
    """A command of the core: its name, its module below `cli`, and the line that `--help` shows for it."""

    name: str
    module: str
    summary: str
    failed_status: int = 1  # exit status if the output cannot be written

    def load(self) -> Any:
        """Import the command: a function, or a `typer.Typer` with subcommands."""
        return getattr(import_module(f"{__name__}.{self.module}"), self.name.replace("-", "_"))


COMMANDS = (
    CommandEntry("init", "init", "Write a configuration with comments: asks a few questions, or takes options."),
    CommandEntry("run", "run", "Run the service until SIGTERM or Ctrl-C."),
    CommandEntry(
        "check", "check", "Check a configuration, its plugins and each AE title, and try what the service needs."
    ),
    CommandEntry("reload", "reload", "Show or apply the difference between the running service and the file."),
    CommandEntry("audit", "audit", "Compare ledger and storage, and account for every received instance.", 2),
    CommandEntry("backup", "backup", "Back up ledger, stored instances and configuration, while the service runs.", 2),
    CommandEntry("restore", "backup", "Restore a backup into a new data folder and ledger.", 2),
    CommandEntry("plugins", "plugins", "List the installed plugins, also unusable and disabled plugins."),
    CommandEntry("doctor", "doctor", "Test plugins with synthetic instances, each in a separate process."),
    CommandEntry("demo", "demo", "Show the whole path in a temporary folder: studies, jobs, results in a PACS."),
    CommandEntry("synthesize", "synthesize", "Write synthetic studies as DICOM files, to try the adapter."),
    CommandEntry("simulate", "simulate", "Replay a schedule of arrivals through your processors on a simulated clock."),
    CommandEntry("send", "send", "Send DICOM files to a peer (C-STORE), exactly as they are encoded."),
    CommandEntry("echo", "send", "Verify the connection to a peer (C-ECHO)."),
    CommandEntry(
        "status", "status", "Show whether the service runs and works, and the instances and jobs of each AE title."
    ),
    CommandEntry("explain", "explain", "Show the story of a study, SOP instance or job: its events in order."),
    CommandEntry("senders", "senders", "List the senders: when seen, what they sent, why they were rejected."),
    CommandEntry("jobs", "jobs", "List, show, watch, retry and cancel jobs."),
    CommandEntry("instances", "instances", "List, show, requeue, export and discard instances."),
    CommandEntry("results", "results", "List, show, export, requeue and discard results of jobs."),
    CommandEntry("ae-titles", "ae_titles", "List and restart AE titles."),
    CommandEntry("notifications", "notifications", "Test and list the notifications: messages to people."),
)
CORE_COMMANDS = frozenset(entry.name for entry in COMMANDS)


def make_app(is_wanted: Callable[[str], bool]) -> typer.Typer:
    """Return the command line. Commands that are not wanted have a name and a summary, but are not loaded."""
    made = typer.Typer(
        name="dicom-adapter",
        help="Receives DICOM, keeps every instance that it acknowledges, and turns instances into inference jobs.",
        no_args_is_help=True,
        rich_markup_mode=None,  # the boxes of rich cut the names of options in a narrow terminal
        pretty_exceptions_show_locals=False,  # local variables may contain patient data
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_common)
    for entry in COMMANDS:
        loaded = entry.load() if is_wanted(entry.name) else _not_loaded
        if isinstance(loaded, typer.Typer):
            made.add_typer(loaded, name=entry.name, short_help=entry.summary)
        else:
            made.command(name=entry.name, short_help=entry.summary)(loaded)
    _keep_summaries(made)
    help_text.use_plain_commands(made)
    return made


def _keep_summaries(group: typer.Typer) -> None:
    """Make the first line of each docstring the summary of its command, because click cuts long summaries."""
    for command in group.registered_commands:
        command.short_help = command.short_help or _first_line(command.callback and command.callback.__doc__)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _keep_summaries(inner.typer_instance)
            inner.short_help = inner.short_help or _first_line(inner.typer_instance.info.help)


def _first_line(text: object) -> str | None:
    return text.strip().partition("\n")[0] if isinstance(text, str) else None


def _not_loaded() -> None:
    raise AssertionError("a command was called that was not loaded")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dicom-adapter {__version__}")
        raise typer.Exit


def _common(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    del version  # `_version` has handled it


def main() -> None:
    """Run the command line: the entry point of the console script."""
    wanted = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if not open_streams() and wanted == "run":
        with suppress(OutputFailed):  # also if standard output is closed
            typer.echo("warning: standard error is closed: the service runs without a log")
    core_dumps.disable()
    if wanted == "run":
        early_signals.stop_at_once()
    failed_status = next((entry.failed_status for entry in COMMANDS if entry.name == wanted), 1)
    with failures_on_one_line(failed_status):
        _call(wanted)


def _call(wanted: str | None) -> None:
    made = make_app(lambda name: name == wanted)
    if wanted not in CORE_COMMANDS and sys.argv[1:] != ["--version"]:
        # Importing plugins takes time. They are loaded only if the command may belong to a plugin.
        from dicom_adapter.cli.plugin_commands import add_commands
        from dicom_adapter.plugins.registry import discover

        add_commands(made, discover(kinds=()), CORE_COMMANDS)
        _keep_summaries(made)
        help_text.use_plain_commands(made)
    made()


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = made = make_app(lambda _name: True)
    return made
