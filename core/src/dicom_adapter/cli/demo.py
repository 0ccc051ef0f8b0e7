"""`dicom-adapter demo`."""

from __future__ import annotations

import typer


def demo(
    keep: bool = typer.Option(False, "--keep", help="Keep the whole temporary folder, so that you can inspect it."),
) -> None:
    """Show the whole path: studies become jobs, a command makes results of them, and a PACS gets the results.

    The service, the PACS (another service of this program) and all files are in a temporary folder. Takes about 30
    seconds.

    Exit status: 0 if the PACS has all results, 1 otherwise.
    """
    from dicom_adapter.cli.demo_run import play  # loads the DICOM libraries, which other commands do not need

    play(keep=keep)
