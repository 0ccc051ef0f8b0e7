"""Ask the user to confirm an action that cannot be undone."""

from __future__ import annotations

import sys

import typer

from dicom_adapter.cli.messages import fail


def confirm(question: str) -> None:
    """Ask a yes/no question. Ends the command with status 1 if the answer is no, or if nobody can answer."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        typer.echo(err=True)  # ends the line of the question
        raise fail("nothing was changed, because there was no answer: use a terminal, or add --yes") from None
    if not agreed:
        raise fail("nothing was changed")
