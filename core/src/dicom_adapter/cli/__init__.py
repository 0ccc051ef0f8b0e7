"""The command line, `dicom-adapter`."""

from __future__ import annotations

import typer

from dicom_adapter import __version__
from dicom_adapter.cli.check import check
from dicom_adapter.cli.demo import demo
from dicom_adapter.cli.jobs import jobs
from dicom_adapter.cli.plugins import plugins
from dicom_adapter.cli.run import run
from dicom_adapter.cli.send import echo, send

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
app.command()(plugins)
app.command()(demo)
app.command()(send)
app.command()(echo)
app.add_typer(jobs, name="jobs")


def main() -> None:
    """The console script."""
    app()
