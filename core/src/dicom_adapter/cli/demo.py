"""`dicom-adapter demo`."""

from __future__ import annotations

import typer


def demo(
    keep: bool = typer.Option(False, "--keep", help="Keep the temporary folder, so that you can inspect it."),
) -> None:
    """Start the service in a temporary folder, send studies to two AE titles, and show how they become jobs.

    Takes about 15 seconds. Exit status: 0 if all jobs reached the (simulated) platform, 1 otherwise.
    """
    from dicom_adapter.cli.demo_run import play  # loads the DICOM libraries, which other commands do not need

    play(keep=keep)
