"""`dicom-adapter demo`."""

from __future__ import annotations

import typer


def demo(
    keep: bool = typer.Option(False, "--keep", help="Keep the temporary folder, to look around in it."),
) -> None:
    """Start the service in a temporary folder, send studies to two AE titles, and show how they become jobs.

    Takes about 15 seconds. Exit status: 0 when all jobs reached the (fake) platform.
    """
    from dicom_adapter.cli.scenes import play  # loads the DICOM libraries, which other commands do without

    play(keep=keep)
