"""The results of `dicom-adapter doctor`, which tests plugins with synthetic instances."""

from __future__ import annotations

from typing import Any

from attrs import asdict, field, frozen


@frozen(kw_only=True)
class Trial:
    """The result of one trial."""

    trial: str  # name of the trial, for example "processor 'aetitle'"
    seconds: float  # duration
    observed: str = ""  # the result if there is no problem
    problem: str = ""  # the problem and the next step; "" if there is no problem
    skipped: str = ""  # why the trial was not run, and the next step


@frozen(kw_only=True)
class Diagnosis:
    """The results of one plugin."""

    plugin: str  # name of the plugin's entry point
    distribution: str
    version: str
    trials: tuple[Trial, ...] = field(factory=tuple)

    @property
    def has_no_problem(self) -> bool:
        """True if no trial found a problem."""
        return not any(trial.problem for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "plugin": self.plugin,
            "distribution": self.distribution,
            "version": self.version,
            "ok": self.has_no_problem,
            "trials": [asdict(trial) for trial in self.trials],
        }
