"""The report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from attrs import field, frozen

from faults.count import Finding
from faults.evidence import LedgerJob

MAX_SHOWN = 40  # findings that are printed
GOOD = (
    "  nothing acknowledged was lost, nothing was started twice; each destination has each result once, or it is held"
)


@frozen(kw_only=True)
class Report:
    """The figures of one run."""

    seed: str
    seconds: float  # with faults
    drained_in: float | None  # seconds after the end of the faults; None: not within the time limit
    kills: Mapping[str, int]  # of the adapter, by process
    launches: int
    waited: float  # seconds in which the campaign waited until the service listened
    surroundings: Mapping[str, int]  # faults of machine and network, by kind
    effects: Mapping[str, int]  # effects of these faults on the service, by kind
    reloads: int  # requested
    applied: int  # number of requested reloads that were applied
    platform_restarts: int
    faults: Mapping[str, int]  # calls of the platform, by kind of fault
    associations: Mapping[str, int]  # by kind of end
    not_established: Mapping[str, int]  # association requests, by reason
    sent: int
    answers: Mapping[str, int]  # C-STORE requests by status
    orders: int  # jobs that the composer ordered
    composing: Mapping[str, int]  # requests for jobs, by status
    deleting: Mapping[str, int]  # requests to delete studies, by status
    ledger: Mapping[str, int]  # rows by state
    started_jobs: int
    jobs_never_started: int  # created on the platform, but the response was lost
    results: Mapping[str, int]  # results of commands by state
    destinations: Mapping[str, tuple[int, Mapping[str, int]]]  # instances and faults of each product
    held: tuple[LedgerJob, ...]  # deliveries to products that are not finished
    left_out: tuple[str, ...]  # products and faults that this machine lacks, with the reason
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
            f"                 waited {self.waited:.0f} s until it listened",
            f"                 {self.reloads} reloads, {self.applied} of them applied",
            f"  surroundings   {_counted(self.surroundings, 'faults')}",
            f"                 {_counted(self.effects, 'effects')}",
            f"  platform       restarted {self.platform_restarts} times; {_counted(self.faults, 'faults')}",
            f"  associations   {_counted(self.associations, 'established')}",
            f"                 {_counted(self.not_established, 'not established')}",
            f"  instances      {self.sent} C-STOREs: {_counted(self.answers, 'answers')}",
            f"  cache          {self.orders} orders, in {_counted(self.composing, 'requests')}",
            f"                 deletions in {_counted(self.deleting, 'requests')}",
            f"  ledger         {_counted(self.ledger, 'rows')}; {self.retried} faulted jobs retried",
            f"  started jobs   {self.started_jobs}; created and never started: {self.jobs_never_started}",
            f"  results        {_counted(self.results, 'collected')}",
            *_labelled("destinations", map(_destination, self.destinations.items())),
            *_labelled("held", map(_held_job, self.held)),
            *_labelled("left out", self.left_out),
            f"  orphans        {self.orphans} stored objects without a row",
            f"  findings       {_counted(Counter(finding.rule for finding in self.findings), 'in total')}",
            *(f"    {finding}" for finding in self.findings[:MAX_SHOWN]),
            GOOD if self.is_good else "  FAILED",
        ]
        return "\n".join(lines)


def _labelled(label: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a list, the first one with a label."""
    for number, line in enumerate(lines):
        yield f"  {'' if number else label:<13}  {line}"


def _destination(item: tuple[str, tuple[int, Mapping[str, int]]]) -> str:
    name, (instances, faults) = item
    return f"{name}: {instances} instances; {_counted(faults, 'faults')}"


def _held_job(job: LedgerJob) -> str:
    results = "1 result" if len(job.instances) == 1 else f"{len(job.instances)} results"
    reason = f": {job.last_error}" if job.last_error else ""
    return f"job {job.job_id} ({results} to {job.submitter}) is {job.state}{reason}"


def _counted(numbers: Mapping[str, int], word: str) -> str:
    parts = ", ".join(f"{name} {number}" for name, number in sorted(numbers.items()))
    return f"{sum(numbers.values())} {word}" + (f" ({parts})" if parts else "")
