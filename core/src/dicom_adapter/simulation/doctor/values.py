"""What came of trying a plugin."""

from __future__ import annotations

from typing import Any

from attrs import asdict, field, frozen


@frozen(kw_only=True)
class Trial:
    """One thing that was tried."""

    what: str  # such as "processor 'aetitle'"
    seconds: float
    told: str = ""  # what was seen
    problem: str = ""  # what is wrong, and what to do; "" when nothing is
    skipped: str = ""  # why it was not tried, and what to do


@frozen(kw_only=True)
class Diagnosis:
    """One plugin."""

    plugin: str  # the name of its entry point
    distribution: str
    version: str
    trials: tuple[Trial, ...] = field(factory=tuple)

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return not any(trial.problem for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "plugin": self.plugin,
            "distribution": self.distribution,
            "version": self.version,
            "ok": self.is_well,
            "trials": [asdict(trial) for trial in self.trials],
        }
