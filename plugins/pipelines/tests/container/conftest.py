"""Fixtures: submitters whose containers run in a real podman."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.container_jobs import Containers
from support.podman import Podman


@pytest.fixture
def containers(tmp_path: Path, podman: Podman) -> Iterator[Containers]:
    """A submitter without pipelines; its jobs are cancelled at the end."""
    made = Containers(tmp_path, podman)
    yield made
    made.cancel_all()


@pytest.fixture
def unstarted(tmp_path: Path) -> Containers:
    """A submitter with a pipeline, whose jobs are not started: it needs no engine."""
    made = Containers(tmp_path, None)
    made.configure("true")
    return made


WRAPPER = """#!/bin/sh
echo "$@" >> {record}
skip=
for word; do
  shift
  if [ "$word" = --device ]; then skip=1
  elif [ -n "$skip" ]; then skip=
  else set -- "$@" "$word"
  fi
done
exec {podman} "$@"
"""


@pytest.fixture
def wrapped_engine(tmp_path: Path, podman: Podman, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program `podman` on PATH that records its arguments. It omits `--device`: this machine has no GPU.

    Return the file with the arguments, one line for each call. The program is `bin/podman` beside this file.
    """
    record, program = tmp_path / "calls", tmp_path / "bin" / "podman"
    program.parent.mkdir()
    program.write_text(WRAPPER.format(record=shlex.quote(str(record)), podman=shlex.quote(podman.program)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return record
