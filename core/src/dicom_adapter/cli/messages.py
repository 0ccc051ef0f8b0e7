"""Messages of commands on stderr."""

from __future__ import annotations

import typer


def fail(*messages: str) -> typer.Exit:
    """Say what is wrong, a line each, on stderr; to be raised."""
    for message in messages:
        typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    return typer.Exit(1)


def warn(*messages: str) -> None:
    """Say what may be wrong, a line each, on stderr."""
    for message in messages:
        typer.secho(f"warning: {message}", fg=typer.colors.YELLOW, err=True)
