"""Errors and warnings of commands, on stderr."""

from __future__ import annotations

import typer


def fail(*messages: str) -> typer.Exit:
    """Print errors, one line each; return the exception to raise, which ends the command with status 1."""
    for message in messages:
        typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    return typer.Exit(1)


def warn(*messages: str) -> None:
    """Print warnings, one line each."""
    for message in messages:
        typer.secho(f"warning: {message}", fg=typer.colors.YELLOW, err=True)
