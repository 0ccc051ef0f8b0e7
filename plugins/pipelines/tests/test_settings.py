"""Settings of pipelines: what is refused before a job runs, and secrets in the environment."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import fields

from dicom_adapter import Secret
from dicom_adapter_pipelines.command import CommandPipeline, CommandSettings
from dicom_adapter_pipelines.contracts import Contract
from support.command_jobs import Pipelines, shell


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("command", (), "must begin with a program"),
        ("command", ("", "x"), "must begin with a program"),
        ("command", ("./run.sh",), "must begin with an absolute path, or the name of a program on the PATH"),
        ("command", ("x", "a\0b"), "must not contain a NUL character"),
        ("success", (), "must have numbers from 0 to 255"),
        ("success", (-1,), "must have numbers from 0 to 255"),
        ("environment", {"A=B": "x"}, "must have names without '=', and no NUL characters, unlike 'A=B'"),
        ("environment", {"": "x"}, "must have names without '='"),
        ("environment", {"A": "\0"}, "no NUL characters, unlike 'A'"),
        ("time_limit", 0.0, "must be at least 0.1 seconds"),
        ("reruns", -1, "must be from 0 to 100"),
        ("max_log_bytes", 10, "must be from 4096 to 1073741824 bytes"),
        ("memory", 10, "must be at least 1048576"),
    ],
)
def test_values_that_cannot_work_are_refused(name: str, value: Any, problem: str) -> None:
    """The core calls the validator of a key with None as the instance."""
    field = getattr(fields(CommandPipeline), name)
    with pytest.raises(ValueError, match=problem):
        field.validator(None, field, value)


def test_gpus_are_listed_once() -> None:
    field = fields(CommandSettings).gpus
    with pytest.raises(ValueError, match="must not name a GPU twice"):
        field.validator(None, field, ("0", "0"))
    with pytest.raises(
        ValueError, match=r"must name GPUs by number or UUID, as `nvidia-smi -L` lists them, not \"a,b\""
    ):
        field.validator(None, field, ("a,b",))


def test_settings_of_a_module_need_its_contract() -> None:
    """With another contract, nothing would read the settings."""
    with pytest.raises(ValueError, match='are for a mercure module only: set contract = "mercure"'):
        CommandPipeline(command=("x",), settings={"a": 1})
    CommandPipeline(command=("x",), settings={"a": 1}, contract=Contract.MERCURE)


def test_secrets_reach_the_command_and_no_file_that_others_can_read(pipelines: Pipelines) -> None:
    """After the clean-up of the job, no file contains the secrets."""
    pipelines.configure(shell('echo "$LICENSE" > "$2/license"'), environment={"LICENSE": Secret("open sesame")})
    job = pipelines.start()
    assert pipelines.end(job).succeeded
    folder = pipelines.of(job)
    assert "open sesame\n" == (folder.output / "license").read_text()
    assert 0o600 == folder.launch_file.stat().st_mode & 0o777
    assert 0o700 == folder.path.stat().st_mode & 0o777
    assert "sesame" not in repr(folder.launch())
    pipelines.submitter().clean_up(job)
    assert not [path for path in folder.path.iterdir() if b"sesame" in path.read_bytes()]
