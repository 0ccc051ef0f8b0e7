"""Settings that the tables of all pipelines on this machine have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Attribute, frozen

from dicom_adapter import ByteSize, Secret, at_least, between, setting
from dicom_adapter_pipelines.contracts import Contract

DAY_S = 86_400
YEAR_S = 366 * DAY_S
MIB = 1 << 20
GPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,99}")


# The first line of a validator's docstring is shown as the rule in the reference of the settings.
def exit_statuses(_instance: Any, _attribute: Attribute[Any], value: tuple[int, ...]) -> None:
    """numbers from 0 to 255

    Validate that a list of exit statuses is neither empty nor has other numbers.
    """
    if not value or not all(0 <= status <= 255 for status in value):
        raise ValueError(f"must have {exit_statuses.__doc__.splitlines()[0]}")  # type: ignore[union-attr] # has one


def variables(_instance: Any, _attribute: Attribute[Any], value: Mapping[str, str]) -> None:
    """names without `=`

    Validate that the system can store the names and values of environment variables.
    """
    for name, text in value.items():
        if not name or "=" in name or "\0" in name + text:
            raise ValueError(f"must have names without '=', and no NUL characters, unlike {name!r}")


def gpu_names(_instance: Any, _attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    """each once

    Validate that GPUs are named as `nvidia-smi -L` shows them, each once.
    """
    for name in value:
        if GPU.fullmatch(name) is None:
            raise ValueError(f'must name GPUs by number or UUID, as `nvidia-smi -L` lists them, not "{name}"')
    if len(set(value)) != len(value):
        raise ValueError("must not name a GPU twice")


@frozen(kw_only=True)
class PipelineSettings:
    """The keys that the table of each pipeline has: [submitters.<name>.pipelines.<pipeline id>]."""

    environment: Mapping[str, Secret | str] = setting(
        factory=dict,
        validator=variables,
        help=(
            "Environment variables of the pipeline. In their values, `{input}`, `{output}`, `{job}` and `{work}` are "
            "replaced by the paths of the job."
        ),
    )
    contract: Contract = setting(
        default=Contract.PLAIN,
        help=(
            "Names of files, variables and manifests that the pipeline expects: `map` those of a MONAI Application "
            "Package, `mercure` those of a mercure module, `plain` only those of dicom-adapter."
        ),
    )
    settings: Mapping[str, Any] = setting(
        factory=dict, help='Settings of a mercure module, in `task.json`; only with `contract = "mercure"`.'
    )
    time_limit: float | None = setting(
        default=3600.0,
        validator=at_least(0.1, "seconds"),
        help="Seconds after which a run is ended and its job fails. Waiting for a GPU does not count.",
    )
    grace: float = setting(
        default=10.0,
        validator=between(0, 3600, "seconds"),
        help="Seconds from SIGTERM to SIGKILL when processes of a job are ended.",
    )
    success: tuple[int, ...] = setting(default=(0,), validator=exit_statuses, help="Exit statuses of a successful run.")
    expect_results: bool = setting(
        default=True, help="If true, a run without any output file fails, whatever its exit status."
    )
    max_output_bytes: ByteSize = setting(
        default=ByteSize(8 << 30),
        validator=at_least(1),
        help="Largest size of the files in `output` and `work` together. A run with more is ended, and its job fails.",
    )
    max_log_bytes: ByteSize = setting(
        default=ByteSize(10 * MIB),
        validator=between(4096, 1 << 30, "bytes"),
        help="Largest size of the log of a run. Of a longer log, the beginning and the end are kept.",
    )
    reruns: int = setting(
        default=1,
        validator=between(0, 100),
        help=(
            "Number of times that a run is repeated from the start after an interruption: a power loss, a restart of "
            "the machine, or the end of its runner by a signal."
        ),
    )

    def __attrs_post_init__(self) -> None:
        if self.settings and self.contract is not Contract.MERCURE:
            raise ValueError('settings are for a mercure module only: set contract = "mercure", or remove them')


@frozen(kw_only=True)
class JobFolderSettings:
    """The keys that the tables of all submitters on this machine have."""

    folder: Path | None = setting(
        default=None,
        help="Folder for the files of jobs, on a disk with space for them; default: the submitter's data folder.",
    )
    keep_logs_days: float = setting(
        default=30.0,
        validator=between(0, 3660, "days"),
        help="Days for which the log of a job is kept after its end.",
    )
