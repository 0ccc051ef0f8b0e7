"""Values of the receiving benchmark: receivers, workloads, and results."""

from __future__ import annotations

from attrs import frozen

AE_TITLE = "BENCH"  # called AE title


@frozen
class Running:
    """A receiver that listens."""

    port: int
    pid: int  # of its first process, of which the others are descendants


@frozen(kw_only=True)
class Workload:
    """A data set that is sent, and the number of senders."""

    key: str
    name: str  # in tables: size of the instances, number of senders
    size: str  # of the instances: large (512 KiB) or small (8 KiB)
    senders: int
    has_association_per_instance: bool = False


WORKLOADS = (
    Workload(key="large-1", name="large, 1", size="large", senders=1),
    Workload(key="large-8", name="large, 8", size="large", senders=8),
    Workload(key="small-1", name="small, 1", size="small", senders=1),
    Workload(key="small-8", name="small, 8", size="small", senders=8),
    Workload(
        key="each",
        name="an association for each small one, 8",
        size="small",
        senders=8,
        has_association_per_instance=True,
    ),
)


@frozen(kw_only=True)
class Rate:
    """The results of one run of a workload."""

    rate: float  # instances per second
    count: int  # instances
    cpu_ms: float  # per instance, of all processes of the receiver
    sender_cpu_us: float  # CPU time of the sender per instance
    peak_mb: float  # resident memory of all processes of the receiver
    rejections: int  # associations that a busy receiver rejected
    proportional_mb: float | None = None  # peak of the memory in which shared pages count once


@frozen(kw_only=True)
class Associations:
    """The cost of a receiver's associations."""

    accept_ms: float  # from the connection to the A-ASSOCIATE-AC, median
    cycle_cpu_ms: float  # of the receiver, to accept and release an association
    echo_ms: float  # C-ECHO, median
    held: int  # associations that were open at once
    memory_kb: float | None  # memory for each held association
    idle_cpu_percent: float | None  # of one core, for all held associations, minus the use without associations
    another_ms: float | None  # until another association is accepted while these are held, maximum of ten tries
