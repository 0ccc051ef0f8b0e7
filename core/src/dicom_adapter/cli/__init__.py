"""The command line, `dicom-adapter`."""

from __future__ import annotations

import sys

import typer

from dicom_adapter import __version__
from dicom_adapter.cli.ae_titles import ae_titles
from dicom_adapter.cli.audit import audit
from dicom_adapter.cli.brought import add_commands
from dicom_adapter.cli.check import check
from dicom_adapter.cli.demo import demo
from dicom_adapter.cli.doctor import doctor
from dicom_adapter.cli.explain import explain
from dicom_adapter.cli.instances import instances
from dicom_adapter.cli.jobs import jobs
from dicom_adapter.cli.plugins import plugins
from dicom_adapter.cli.reload import reload
from dicom_adapter.cli.run import run
from dicom_adapter.cli.send import echo, send
from dicom_adapter.cli.simulate import simulate
from dicom_adapter.cli.status import status
from dicom_adapter.plugins.registry import discover

app = typer.Typer(
    name="dicom-adapter",
    help="Receives DICOM, keeps every instance that it acknowledges, and turns instances into inference jobs.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold patients' data
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dicom-adapter {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    del version  # its callback has answered


app.command()(run)
app.command()(check)
app.command()(reload)
app.command()(audit)
app.command()(plugins)
app.command()(doctor)
app.command()(demo)
app.command()(simulate)
app.command()(send)
app.command()(echo)
app.command()(status)
app.command()(explain)
app.add_typer(jobs, name="jobs")
app.add_typer(instances, name="instances")
app.add_typer(ae_titles, name="ae-titles")


OWN = frozenset(
    {
        "run",
        "check",
        "reload",
        "audit",
        "plugins",
        "doctor",
        "demo",
        "simulate",
        "send",
        "echo",
        "explain",
        "status",
        "jobs",
        "instances",
        "ae-titles",
    }
)


def main() -> None:
    """The console script."""
    # Plugins are loaded for their commands only when they may matter: importing them takes time.
    wanted = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if wanted not in OWN:
        add_commands(app, discover(), OWN)
    app()
