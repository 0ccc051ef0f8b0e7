"""Errors, warnings and log events of commands, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Write the log events of the block to stderr: stdout is for the result of the command."""
    import structlog

    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)
