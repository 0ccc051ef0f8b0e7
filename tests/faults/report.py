"""The report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from attrs import field, frozen

from faults.count import Finding

MAX_SHOWN = 40  # findings that are printed


@frozen(kw_only=True)
class Report:
    """The figures of one run."""

    seed: str
    seconds: float  # with faults
    drained_in: float | None  # seconds after the end of the faults; None: not within the time limit
    kills: Mapping[str, int]  # of the adapter, by process
    launches: int
    surroundings: Mapping[str, int]  # faults of machine and network, by kind
    reloads: int  # requested
    applied: int  # number of requested reloads that were applied
    platform_restarts: int
    faults: Mapping[str, int]  # calls of the platform, by kind of fault
    associations: Mapping[str, int]  # by kind of end
    sent: int
    answers: Mapping[str, int]  # C-STORE requests by status
    orders: int  # jobs that the composer ordered
    composing: Mapping[str, int]  # requests for jobs, by status
    deleting: Mapping[str, int]  # requests to delete studies, by status
    ledger: Mapping[str, int]  # rows by state
    started_jobs: int
    jobs_never_started: int  # created on the platform, but the response was lost
    results: Mapping[str, int]  # results of commands by state
    retried: int  # faulted jobs that were retried
    orphans: int
    findings: tuple[Finding, ...] = field(default=())

    @property
    def is_good(self) -> bool:
        return self.drained_in is not None and not self.findings

    def __str__(self) -> str:
        drained = "NOT drained" if self.drained_in is None else f"drained in {self.drained_in:.0f} s"
        lines = [
            f"seed {self.seed}: {self.seconds:.0f} s of faults, {drained}",
            f"  adapter        {_counted(self.kills, 'killed')}; started {self.launches} times",
            f"                 {self.reloads} reloads, {self.applied} of them applied",
            f"  surroundings   {_counted(self.surroundings, 'faults')}",
            f"  platform       restarted {self.platform_restarts} times; {_counted(self.faults, 'faults')}",
            f"  associations   {_counted(self.associations, 'in total')}",
            f"  instances      {self.sent} C-STOREs: {_counted(self.answers, 'answers')}",
            f"  cache          {self.orders} orders, in {_counted(self.composing, 'requests')}",
            f"                 deletions in {_counted(self.deleting, 'requests')}",
            f"  ledger         {_counted(self.ledger, 'rows')}; {self.retried} faulted jobs retried",
            f"  started jobs   {self.started_jobs}; created and never started: {self.jobs_never_started}",
            f"  results        {_counted(self.results, 'collected')}",
            f"  orphans        {self.orphans} stored objects without a row",
            f"  findings       {_counted(Counter(finding.rule for finding in self.findings), 'in total')}",
            *(f"    {finding}" for finding in self.findings[:MAX_SHOWN]),
            "  nothing acknowledged was lost, nothing was started twice" if self.is_good else "  FAILED",
        ]
        return "\n".join(lines)


def _counted(numbers: Mapping[str, int], word: str) -> str:
    parts = ", ".join(f"{name} {number}" for name, number in sorted(numbers.items()))
    return f"{sum(numbers.values())} {word}" + (f" ({parts})" if parts else "")
