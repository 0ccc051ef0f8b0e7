"""The results of `dicom-adapter doctor`, which tests plugins with synthetic instances."""

from __future__ import annotations

from typing import Any

from attrs import asdict, field, frozen

from dicom_adapter.config import tables_of


@frozen(kw_only=True)
class Trial:
    """The result of one trial."""

    trial: str  # name of the trial, for example "processor 'aetitle'"
    seconds: float  # duration
    observed: str = ""  # the result if there is no problem
    problem: str = ""  # the problem and the next step; "" if there is no problem
    not_tried: str = ""  # why the trial was not run, and the next step


@frozen(kw_only=True)
class Diagnosis:
    """The results of one plugin."""

    plugin: str  # name of the plugin's entry point
    distribution: str
    version: str
    trials: tuple[Trial, ...] = field(factory=tuple)

    @property
    def has_problem(self) -> bool:
        """True if a trial found a problem."""
        return any(trial.problem for trial in self.trials)

    @property
    def is_complete(self) -> bool:
        """True if every trial was run."""
        return not any(trial.not_tried for trial in self.trials)

    @property
    def is_ok(self) -> bool:
        """True if everything was tried, and no trial found a problem."""
        return self.is_complete and not self.has_problem

    def to_json(self) -> dict[str, Any]:
        return {
            "plugin": self.plugin,
            "distribution": self.distribution,
            "version": self.version,
            "ok": self.is_ok,
            "trials": [_to_json(trial) for trial in self.trials],
        }


def _to_json(trial: Trial) -> dict[str, Any]:
    values = asdict(trial)
    not_tried = values.pop("not_tried")
    return {**values, "notTried": not_tried}


def parse_setting(text: str) -> tuple[str, Any]:
    """Return the key and the value of `KEY=VALUE`. A value that is not TOML is a text. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not key.strip() or not equals:
        raise ValueError(f"'{text}' must be KEY=VALUE, such as pipeline-lung=8abf")
    return key.strip(), tables_of(f"value = {value}").get("value", value.strip())
