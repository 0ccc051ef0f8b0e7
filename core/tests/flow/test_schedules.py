"""Random schedules of arrivals, failures and operators' actions, compared with a small model.

The model implements the rules of docs/dicom.md and docs/operation.md, independently of the adapter.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
from attrs import define, evolve, field, frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from dicom_adapter import (
    Job,
    JobState,
    Permanent,
    PlatformJob,
    PlatformStatus,
    Refused,
    Retriable,
    Submitter,
    Upload,
    hookimpl,
)
from dicom_adapter.api.receiving import StoreOutcome, StoreResult
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.submit import operators
from dicom_adapter.net.server import DicomServer
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.testing import Adapter, Plugin
from dicom_adapter.testing.fixtures import MakeAdapter

CONFIGURATION = """
[submitters.platform]
type = "moody"
retry-first = 1
retry-most = 4  # longest pause in seconds
[ae-titles.KEEP]
processor = "by-study"
settings = { required = "PatientID", pipeline-one = "k1", pipeline-two = "k2" }
[ae-titles.OVER]
processor = "by-study"
overwrite-same-instance = true
settings = { timeout = 6, pipeline-one = "o1" }
"""
PIPELINES = {"KEEP": {"one": "k1", "two": "k2"}, "OVER": {"one": "o1"}}
QUIET = {"KEEP": timedelta(seconds=5), "OVER": timedelta(seconds=6)}
NOBODY = 0  # the group whose instances have no Patient ID
TICK = 0.001  # seconds between two steps, so that no arrival is exactly at the time at which a group is due
LONG_ENOUGH = 20  # seconds, for every group, retry and reclaim

EXAMPLES = settings.default.max_examples // 6  # each example runs a complete adapter


# --- steps of schedules ---------------------------------------------------------------------------------------------


@frozen
class Send:
    """An association that may be aborted after some instances."""

    ae_title: str
    group: int  # a study
    sent: Sequence[tuple[int, int]]  # SOP instances and their contents
    aborted_after: int | None  # instances
    noticed: bool  # whether the host notices the arrival at once; otherwise with the next step


@frozen
class Wait:
    seconds: float


@frozen
class Away:
    """Time passes while the host is down."""

    seconds: float


@frozen
class Restart:
    pass


@frozen
class Mood:
    """A change of the platform's behaviour."""

    mood: str


@frozen
class Operator:
    """An operator retries or cancels a job."""

    action: Callable[..., Job]
    job: int  # index from the oldest, modulo the number of jobs


Step = Send | Wait | Away | Restart | Mood | Operator


def sending(ae_title: str, groups: st.SearchStrategy[int], sop_instances: st.SearchStrategy[int]) -> Any:
    sent = st.lists(st.tuples(sop_instances, st.integers(1, 2)), min_size=1, max_size=3)
    return st.builds(
        Send,
        ae_title=st.just(ae_title),
        group=groups,
        sent=sent,
        aborted_after=st.one_of(st.none(), st.integers(0, 2)),
        noticed=st.booleans(),
    )


# At OVER, a study has one instance, which is sent repeatedly: with several, a restart may change a group (see
# test_a_replaced_instance_extends_the_wait_of_its_group_also_after_a_restart).
sends = st.one_of(
    sending("KEEP", st.integers(NOBODY, 2), st.integers(1, 3)), sending("OVER", st.integers(1, 3), st.just(1))
)
waits = st.builds(Wait, st.sampled_from([0.0, 0.5, 2.0, 4.5, 5.0, 6.0, 9.0]))
interruptions = st.one_of(st.builds(Restart), st.builds(Away, st.sampled_from([2.0, 5.5, 7.0])))
troubles = st.one_of(
    st.builds(Mood, st.sampled_from(["well", "down", "forgetful", "refusing"])),
    st.builds(Operator, st.sampled_from([operators.retry, operators.cancel]), st.integers(0, 5)),
)
quiet_schedules = st.lists(st.one_of(sends, sends, waits, interruptions), min_size=1, max_size=16)
schedules = st.lists(st.one_of(sends, sends, waits, waits, interruptions, troubles), min_size=1, max_size=16)


# A schedule that random search may miss: retry and cancellation of refused jobs, and of jobs that the platform may
# have created already.
EVENTFUL: list[Step] = [
    Mood("refusing"),
    Send("KEEP", 1, [(1, 1), (2, 1), (1, 2)], None, noticed=True),
    Send("OVER", 1, [(1, 1)], None, noticed=True),
    Wait(6.0),
    Operator(operators.cancel, 0),
    Operator(operators.retry, 1),
    Mood("forgetful"),
    Restart(),
    Wait(2.0),
    Operator(operators.retry, 2),
    Wait(0.5),
    Operator(operators.cancel, 2),
    Send("KEEP", 1, [(1, 2)], 1, noticed=False),
    Away(7.0),
    Wait(9.0),
]


# --- the model ------------------------------------------------------------------------------------------------------

Key = tuple[str, int]  # AE title and group


@define
class Model:
    """The rules, for instances by their ids. `advance_to` processes all arrivals and due groups up to a time."""

    received: list[int] = field(factory=list)
    pending: dict[tuple[str, str], tuple[int, int]] = field(factory=dict)  # by AE title and UID: number and content
    quarantined: list[int] = field(factory=list)
    # The contents of the quarantined instances, by AE title and UID
    held: dict[tuple[str, str], set[int]] = field(factory=lambda: defaultdict(set))
    replaced: list[int] = field(factory=list)
    jobs: list[tuple[str, str, tuple[int, ...]]] = field(factory=list)  # name, pipeline, instances
    unseen: list[tuple[datetime, int, Key]] = field(factory=list)  # arrivals that the host has not noticed
    groups: dict[Key, list[int]] = field(factory=dict)
    due: dict[Key, datetime] = field(factory=dict)

    def expected(self, ae_title: str, uid: str, content: int) -> tuple[StoreOutcome, bool]:
        """Return the outcome of an arrival at the current time, and whether the instance is stored."""
        _number, already = self.pending.get((ae_title, uid), (0, None))
        is_held = ae_title == "KEEP" and content in self.held[ae_title, uid]
        if already is not None and (already == content or is_held):
            return StoreOutcome.ALREADY_STORED, False
        return StoreOutcome.STORED, True

    def keep(self, number: int, at: datetime, key: Key, uid: str, content: int) -> None:
        self.received.append(number)
        older = self.pending.pop((key[0], uid), None)
        if older is not None and key[0] == "KEEP":  # the first stays
            self.pending[key[0], uid] = older
            self.quarantined.append(number)
            self.held[key[0], uid].add(content)
            return
        if older is not None:
            self.replaced.append(older[0])
        self.pending[key[0], uid] = (number, content)
        self.unseen.append((at, number, key))

    def advance_to(self, until: datetime) -> None:
        """Process arrivals and due groups in the order of their times, as the host does."""
        while self.unseen or self.due:
            arrival = self.unseen[0][0] if self.unseen else datetime.max.replace(tzinfo=until.tzinfo)
            due = min(self.due.values(), default=arrival)
            if due < arrival:
                if due > until:
                    return
                self._finish(next(key for key, when in self.due.items() if when == due))
            else:
                self._see(*self.unseen.pop(0))

    def _see(self, at: datetime, number: int, key: Key) -> None:
        if key == ("KEEP", NOBODY):
            self.quarantined.append(number)
            for name, (pending, content) in self.pending.items():
                if pending == number:
                    self.held[name].add(content)
            self._no_longer_pending([number])
            return
        self.groups.setdefault(key, []).append(number)
        self.due[key] = at + QUIET[key[0]]

    def _finish(self, key: Key) -> None:
        ae_title, due = key[0], self.due.pop(key)
        members = tuple(sorted(set(self.groups.pop(key)) - set(self.replaced)))
        self._no_longer_pending(members)
        for name, pipeline in PIPELINES[ae_title].items():
            if members:
                self.jobs.append((f"{ae_title}-{name}-{due:%Y%m%d%H%M%S}", pipeline, members))

    def _no_longer_pending(self, numbers: Sequence[int]) -> None:
        self.pending = {key: kept for key, kept in self.pending.items() if kept[0] not in numbers}


# --- a platform -----------------------------------------------------------------------------------------------------


class Platform:
    """A platform that stores jobs by id. Its mood determines whether calls fail."""

    def __init__(self) -> None:
        self.mood = "well"
        self.uploaded: dict[str, dict[int, bytes]] = defaultdict(dict)  # by job and position
        self.started: set[str] = set()

    @contextmanager
    def answering(self) -> Iterator[None]:
        if self.mood == "down":
            raise Retriable("no answer")
        if self.mood == "refusing":
            raise Permanent("refused")
        yield
        if self.mood == "forgetful":
            raise Retriable("it is done, but the answer was lost")

    @hookimpl
    def dicom_adapter_submitters(self) -> list[type]:
        platform = self

        class Moody(Submitter):  # type: ignore[type-arg] # without settings
            name: ClassVar[str] = "moody"

            def create_job(self, job: Job) -> PlatformJob:
                with platform.answering():
                    return PlatformJob(job_id=f"p-{job.job_id}", payload_id="")

            def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
                with platform.answering():
                    pass

            def upload(self, job: Job, upload: Upload) -> None:
                with platform.answering(), upload.open() as file:
                    platform.uploaded[job.job_id][upload.position] = file.read()

            def start(self, job: Job) -> None:
                with platform.answering():
                    platform.started.add(job.job_id)

            def status(self, job: Job) -> PlatformStatus:
                return PlatformStatus(state="gone", finished=True)

            def cancel(self, job: Job) -> None:
                with platform.answering():
                    platform.started.discard(job.job_id)

        return [Moody]


# --- adapter and model ----------------------------------------------------------------------------------------------


class World:
    """An adapter, its platform, and the model."""

    def __init__(self, adapter: Adapter, platform: Platform) -> None:
        self.adapter = adapter
        self.platform = platform
        self.model = Model()
        self.content: dict[int, int] = {}  # content number by instance id
        self.cancelled: set[str] = set()  # ids of the jobs that operators have cancelled

    def take(self, step: Step) -> None:
        """Perform a step in the adapter and in the model."""
        self.adapter.clock.advance(TICK)
        if isinstance(step, Send):
            self._send(step)
        elif isinstance(step, Away):
            self.adapter.clock.advance(step.seconds)
            return
        elif isinstance(step, Restart):
            self.adapter.restart()
        elif isinstance(step, Mood):
            self.platform.mood = step.mood
        elif isinstance(step, Operator):
            self._intervene(step)
        self._pass(step.seconds if isinstance(step, Wait) else 0, seen=not isinstance(step, Send) or step.noticed)

    def _pass(self, seconds: float, *, seen: bool = True) -> None:
        if seen:
            self.adapter.advance(seconds)
            self.model.advance_to(self.adapter.clock.now())

    def _send(self, step: Send) -> None:
        for sop_instance, content in step.sent[: step.aborted_after]:
            uid = f"1.2.{step.group}.{sop_instance}"
            answer = arrive(self.adapter, step, uid, content)
            outcome, is_stored = self.model.expected(step.ae_title, uid, content)
            assert (outcome, is_stored) == (answer.outcome, answer.instance is not None)
            if answer.instance is not None:
                number, key = answer.instance.instance_id, (step.ae_title, step.group)
                self.model.keep(number, answer.instance.received_at, key, uid, content)
                self.content[number] = content

    def _intervene(self, step: Operator) -> None:
        jobs = self.adapter.jobs
        if not jobs:
            return
        job = jobs[step.job % len(jobs)]
        try:
            step.action(self.adapter.ledger, self.adapter.clock, job.job_id)
        except Refused:
            assert job.cancel_requested or job.state in (JobState.SUBMITTED, JobState.CANCELLED)
        else:
            self.cancelled |= {job.job_id} if step.action is operators.cancel else set()

    def come_to_rest(self) -> None:
        """Make the platform work, and retry all faulted jobs as an operator."""
        self.platform.mood = "well"
        for job in self.adapter.jobs:
            if job.state is JobState.FAULTED:
                operators.retry(self.adapter.ledger, self.adapter.clock, job.job_id)
        self._pass(LONG_ENOUGH)

    # --- invariants -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that received = pending + quarantined + replaced + in jobs, and that the jobs match the model."""
        model = self.model
        instances_by_job = {job.job_id: self.adapter.instances_of(job) for job in self.adapter.jobs}
        members = {
            job_id: tuple(sorted(instance.instance_id for instance in instances_by_job[job_id]))
            for job_id in instances_by_job
        }
        assert Counter(model.jobs) == Counter(
            (job.name, job.pipeline_id, members[job.job_id]) for job in self.adapter.jobs
        )

        times = Counter((job.pipeline_id, number) for job in self.adapter.jobs for number in members[job.job_id])
        assert {1} >= set(times.values())  # an instance is in one job of each pipeline at most
        in_jobs = {number for _pipeline, number in times}
        pending = [number for number, _content in model.pending.values()]
        assert sorted(model.received) == sorted([*pending, *model.quarantined, *model.replaced, *in_jobs])

        states = self.adapter.states
        assert len(pending) == states.get("pending", 0)
        assert len(model.quarantined) == states.get("quarantined", 0)
        assert len(model.received) == sum(states.values())

        needed = {
            instance.storage_key
            for job in self.adapter.jobs
            if job.state not in (JobState.SUBMITTED, JobState.CANCELLED)
            for instance in instances_by_job[job.job_id]
        }
        assert needed <= set(self.adapter.storage.keys())

    def check_at_rest(self) -> None:
        """Check the final state: only quarantined instances remain, and the platform has started all other jobs.

        Cancelled jobs are excluded. Each instance has the content that was acknowledged.
        """
        self.check()
        submitted = {job.job_id for job in self.adapter.jobs if job.state is JobState.SUBMITTED}
        assert self.cancelled == {job.job_id for job in self.adapter.jobs if job.state is JobState.CANCELLED}
        assert len(self.adapter.jobs) == len(submitted | self.cancelled)
        assert submitted <= self.platform.started <= submitted | self.cancelled
        for job in self.adapter.jobs:
            if job.job_id in submitted:
                expected = [self.content[instance.instance_id] for instance in self.adapter.instances_of(job)]
                assert expected == contents(self.platform.uploaded[job.job_id])
        reclaimed = len(self.model.received) - len(self.model.quarantined)
        assert {"reclaimed": reclaimed, "quarantined": len(self.model.quarantined)} == {
            "reclaimed": 0,
            "quarantined": 0,
        } | self.adapter.states
        assert len(self.model.quarantined) == len(list(self.adapter.storage.keys()))


def contents(uploads: Mapping[int, bytes]) -> list[int]:
    """Return the content numbers of the images of a payload, in order."""
    return [int(dcmread(io.BytesIO(uploads[position])).AccessionNumber) for position in sorted(uploads)]


def arrive(adapter: Adapter, step: Send, uid: str, content: int) -> StoreResult:
    """Receive an instance that the host notices later."""
    instance = make_instance(
        rows=2,
        columns=2,
        patient_id=f"P{step.group}" if step.group != NOBODY else "",
        study_uid=f"1.2.{step.group}",
        series_uid=f"1.2.{step.group}.0",
        sop_uid=uid,
        accession_number=str(content),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter.host, "run_until_idle", lambda: None)
        [answer] = adapter.receive(instance, ae_title=step.ae_title)
    return answer


# --- the rules one by one -------------------------------------------------------------------------------------------


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def adapter(make_adapter: MakeAdapter, platform: Platform) -> Adapter:
    return make_adapter(CONFIGURATION, Plugin(platform))


def ct(sop_instance: int, content: int = 1) -> Dataset:
    """Return an instance; all instances belong to one study."""
    return make_instance(
        patient_id="P1",
        study_uid="1.2.1",
        series_uid="1.2.1.0",
        sop_uid=f"1.2.1.{sop_instance}",
        accession_number=str(content),
    )


def numbers(adapter: Adapter, pipeline: str) -> list[list[int]]:
    """Return the ids of the instances of each job of a pipeline."""
    jobs = [job for job in adapter.jobs if job.pipeline_id == pipeline]
    return [[instance.instance_id for instance in adapter.instances_of(job)] for job in jobs]


@pytest.mark.parametrize("pause", [0, 60], ids=["at once", "much later"])
def test_an_arrival_after_its_group_became_jobs_starts_a_new_group(adapter: Adapter, pause: float) -> None:
    """The new group waits as long as the first one and becomes separate jobs.

    Verified to fail when groups stay open.
    """
    adapter.receive(ct(1), ct(2), ae_title="KEEP")
    adapter.advance(5)
    assert [[1, 2]] == numbers(adapter, "k1") == numbers(adapter, "k2")
    adapter.advance(pause)
    adapter.receive(ct(3), ae_title="KEEP")
    adapter.advance(4.9)
    assert {"reclaimed": 2, "pending": 1} == adapter.states
    adapter.advance(0.1)
    assert [[1, 2], [3]] == numbers(adapter, "k1") == numbers(adapter, "k2")
    assert {"reclaimed": 3} == adapter.states


@pytest.mark.parametrize(
    ("ae_title", "content", "outcome", "kept"),
    [
        ("KEEP", 1, StoreOutcome.ALREADY_STORED, 1),
        ("KEEP", 2, StoreOutcome.STORED, 2),
        ("OVER", 1, StoreOutcome.ALREADY_STORED, 1),
        ("OVER", 2, StoreOutcome.STORED, 2),
    ],
    ids=["keep same", "keep other", "overwrite same", "overwrite other"],
)
def test_a_duplicate_of_a_pending_instance_follows_the_policy(
    adapter: Adapter, ae_title: str, content: int, outcome: StoreOutcome, kept: int
) -> None:
    """Only one of the two becomes part of a job.

    Verified to fail when any rule of the policy is inverted.
    """
    [first] = adapter.receive(ct(1), ae_title=ae_title)
    [again] = adapter.receive(ct(1, content), ae_title=ae_title)
    assert outcome is again.outcome
    entered = [answer.instance.instance_id for answer in (first, again) if answer.instance is not None]
    adapter.advance(10)
    is_held = ae_title == "KEEP" and kept == 2
    assert [entered[:1] if is_held else entered[-1:]] == numbers(adapter, "k1" if ae_title == "KEEP" else "o1")
    assert ({"reclaimed": 1, "quarantined": 1} if is_held else {"reclaimed": kept}) == adapter.states
    assert kept == len(entered)


@pytest.mark.parametrize("mood", ["well", "down", "refusing"])
@pytest.mark.parametrize("ae_title", ["KEEP", "OVER"])
def test_an_instance_sent_again_after_its_group_became_jobs_is_a_new_arrival(
    adapter: Adapter, platform: Platform, ae_title: str, mood: str
) -> None:
    """The content may differ. The first job, which is submitted, waiting or faulted, keeps its instances.

    Verified to fail when an instance is pending until it is reclaimed, or a released instance is replaced.
    """
    platform.mood = mood
    adapter.receive(ct(1, content=1), ae_title=ae_title)
    adapter.advance(6)
    [answer] = adapter.receive(ct(1, content=2), ae_title=ae_title)
    assert (StoreOutcome.STORED, True) == (answer.outcome, answer.instance is not None)
    adapter.advance(6)
    platform.mood = "well"
    for job in adapter.jobs:
        if job.state is JobState.FAULTED:
            operators.retry(adapter.ledger, adapter.clock, job.job_id)
    adapter.advance(LONG_ENOUGH)
    pipelines = PIPELINES[ae_title].values()
    assert [[[1], [2]]] * len(pipelines) == [numbers(adapter, pipeline) for pipeline in pipelines]
    sent = [contents(platform.uploaded[job.job_id]) for job in adapter.jobs]
    assert sorted([[1], [2]] * len(pipelines)) == sorted(sent)


def test_instances_received_before_an_abort_are_kept_and_submitted(adapter: Adapter) -> None:
    """The instances are sent over a real association.

    Verified to fail when an end other than a release deletes the received instances.
    """
    receiver = Receiver(adapter.config, adapter.resources, None)
    server = DicomServer(evolve(adapter.config.dicom, port=0, bind="127.0.0.1"), receiver)
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", server.start(), ae_title="KEEP")
    try:
        assert [0x0000] * 2 == [association.send_c_store(ct(number)).Status for number in (1, 2)]
        association.abort()
    finally:
        server.stop(drain_seconds=10)
        receiver.close()
    adapter.advance(5)
    assert [[1, 2]] == numbers(adapter, "k1")
    assert {"reclaimed": 2} == adapter.states


@pytest.mark.xfail(strict=True, reason="a new processor does not get replaced instances, and so misses their times")
def test_a_replaced_instance_extends_the_wait_of_its_group_also_after_a_restart(adapter: Adapter) -> None:
    """The second arrival is within the quiet period of the first, the third within the quiet period of the second.

    Without a restart this is one group. After a restart, the time of the second arrival is not known.
    """
    for sop_instance in (1, 2, 2):
        adapter.receive(ct(sop_instance), ae_title="OVER")
        adapter.advance(4)
    adapter.restart()
    adapter.advance(LONG_ENOUGH)
    assert [[1, 3]] == numbers(adapter, "o1")


# --- random schedules -----------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES, deadline=None)
@given(schedule=schedules)
@example(schedule=EVENTFUL)
def test_the_adapter_agrees_with_the_model_after_every_step(
    tmp_path_factory: pytest.TempPathFactory, schedule: list[Step]
) -> None:
    """Schedules have two AE titles, a failing platform, restarts and operators. The final state is checked, too.

    Verified to fail when releases are not committed, reclaiming ignores unfinished jobs, or a cancellation is lost.
    """
    platform = Platform()
    adapter = Adapter(tmp_path_factory.mktemp("adapter"), CONFIGURATION, [Plugin(platform)])
    try:
        world = World(adapter, platform)
        for step in schedule:
            world.take(step)
            if not isinstance(step, Away) and (not isinstance(step, Send) or step.noticed):
                world.check()
        world.come_to_rest()
        world.check_at_rest()
    finally:
        adapter.close()


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(schedule=quiet_schedules)
def test_restarts_change_no_job(tmp_path_factory: pytest.TempPathFactory, schedule: list[Step]) -> None:
    """The jobs have the same names, instances and order of instances with and without restarts.

    Verified to fail when instances are delivered again with the time of the restart.
    """
    without = [Wait(0) if isinstance(step, Restart) else step for step in schedule]
    results = [jobs_of(tmp_path_factory, steps) for steps in (schedule, without)]
    assert results[0] == results[1]


def jobs_of(tmp_path_factory: pytest.TempPathFactory, schedule: list[Step]) -> list[Any]:
    """Return names and instances of the jobs of a schedule."""
    platform = Platform()
    adapter = Adapter(tmp_path_factory.mktemp("adapter"), CONFIGURATION, [Plugin(platform)])
    try:
        world = World(adapter, platform)
        for step in schedule:
            world.take(step)
        world.come_to_rest()
        return sorted(
            (job.name, [(instance.sop_instance_uid, instance.checksum) for instance in adapter.instances_of(job)])
            for job in adapter.jobs
        )
    finally:
        adapter.close()
