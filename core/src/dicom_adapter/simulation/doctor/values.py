"""The results of the doctor."""

from __future__ import annotations

from typing import Any

from attrs import asdict, field, frozen


@frozen(kw_only=True)
class Trial:
    """The result of one trial."""

    what: str  # for example "processor 'aetitle'"
    seconds: float
    told: str = ""  # what was observed
    problem: str = ""  # the problem and the next step; "" if there is none
    skipped: str = ""  # why the trial was not run, and the next step


@frozen(kw_only=True)
class Diagnosis:
    """The results of one plugin."""

    plugin: str  # the name of its entry point
    distribution: str
    version: str
    trials: tuple[Trial, ...] = field(factory=tuple)

    @property
    def is_well(self) -> bool:
        """Return whether no trial found a problem."""
        return not any(trial.problem for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "plugin": self.plugin,
            "distribution": self.distribution,
            "version": self.version,
            "ok": self.is_well,
            "trials": [asdict(trial) for trial in self.trials],
        }
