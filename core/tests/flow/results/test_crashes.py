"""A crash at any moment: each output is collected once, and each destination gets each good output once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_adapter import Job, JobState
from dicom_adapter.api.values import SOURCE_JOB
from dicom_adapter.ledger import balance, jobs
from dicom_adapter.operations.audit import Audit, Kind
from dicom_adapter.operations.repair import Repair
from dicom_adapter.testing import Adapter
from support.results import CONFIGURATION, Site, output

MakeAdapter = Callable[..., Adapter]
RETRY_S = 60  # the retries of a step that a crash has interrupted, and the next poll of the platform


class Crash(KeyboardInterrupt):
    """The process is killed: no code of it runs any more."""


class Killer:
    """Kills the host of an adapter at the n-th moment, counted from 0: before or after a write."""

    def __init__(self, adapter: Adapter, moment: int) -> None:
        self.left = moment
        self.ledger_write, self.storage = adapter.ledger.write, adapter.storage
        adapter.ledger.write = self.write  # type: ignore[method-assign]
        for name in ("writer", "sync", "delete"):
            setattr(adapter.storage, name, self.watched(getattr(adapter.storage, name)))

    @property
    def has_killed(self) -> bool:
        return self.left < 0

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash

    @contextmanager
    def write(self, **options: Any) -> Iterator[Any]:
        self.tick()
        with self.ledger_write(**options) as transaction:
            yield transaction
        self.tick()

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            self.tick()
            return call(*arguments)

        return run


def run_with_crash(site: Site, job: Job, outputs: dict[str, bytes], moment: int) -> bool:
    """End a job, kill the host at this moment, and start it again. Return whether it was killed."""
    site.adapter.platform.end(job, outputs=outputs)
    killer = Killer(site.adapter, moment)
    try:
        site.adapter.advance(RETRY_S)
    except Crash:
        pass
    was_killed, killer.left = killer.has_killed, 10**9
    site.adapter.restart()
    site.adapter.advance(RETRY_S)
    return was_killed


def deliveries_of(site: Site, job: Job) -> Counter[str]:
    return Counter(one.submitter for one in site.deliveries if one.metadata[SOURCE_JOB] == job.job_id)


def check(site: Site, job: Job, good: list[bytes], bad: int, attachments: int) -> None:
    """Verify that everything of a job is where it belongs, once."""
    assert JobState.SUCCEEDED is site.job(job).state
    with site.adapter.ledger.read() as transaction:
        row = jobs.get(transaction, job.job_id)
        assert row is not None
        accounts = [*balance.load_accounts(transaction), *balance.load_accounts(transaction, of_results=True)]
    own = [one for one in site.results if one.job_number == row.number]
    assert (len(good), bad) == (len([one for one in own if not one.reason]), len([one for one in own if one.reason]))
    assert attachments == len(site.attachments(job))
    assert {name: 1 for name in ("pacs", "archive") if good} == deliveries_of(site, job)
    for destination in ("pacs", "archive"):
        assert Counter(good) <= Counter(site.delivered_to(destination))
    assert all(count == 1 for count in Counter(site.delivered_to("pacs")).values())
    assert not any(account.difference for account in accounts)
    report = Audit(site.adapter.resources, is_running=lambda: False).run()
    assert not {*report.found} - {Kind.ORPHAN}
    assert all(repair.repaired for repair in Repair(site.adapter.resources).run(report))  # no operator has to decide
    assert not site.events("instance_quarantined")


@pytest.mark.parametrize("first", range(4))
def test_a_crash_between_any_two_writes_repeats_or_completes_the_step(make_adapter: MakeAdapter, first: int) -> None:
    """The four tests have every fourth moment each."""
    site = Site(make_adapter(CONFIGURATION))
    for moment in range(first, 60, 4):
        seed = f"study {moment}"
        good = [output(2 * moment, seed), output(2 * moment + 1, seed)]
        outputs = {"a": good[0], "b": b"{}", "c": output(0, seed, patient_id="OTHER"), "d": good[1]}
        job = site.start_job(seed)
        was_killed = run_with_crash(site, job, outputs, moment)
        check(site, job, good, bad=1, attachments=1)
        if not was_killed:
            return
    raise AssertionError("there are more than 60 moments")


KINDS = {
    "good": lambda number, seed: output(number, seed),
    "other patient": lambda number, seed: output(number, seed, patient_id="OTHER"),
    "other study": lambda number, seed: output(number, seed, study_uid="1.2.3"),
    "no storage class": lambda number, seed: output(number, seed, SOPClassUID="1.2.840.10008.1.1"),
    "truncated": lambda number, seed: output(number, seed)[:-7],
    "header only": lambda number, seed: output(number, seed)[:200],
    "text": lambda number, _seed: f"text {number}".encode(),
    "empty": lambda _number, _seed: b"",
}
ATTACHMENTS = ("text", "empty")


@settings(max_examples=10, deadline=None)
@given(
    batches=st.lists(
        st.tuples(st.lists(st.sampled_from(sorted(KINDS)), max_size=5), st.integers(0, 40)), min_size=1, max_size=2
    )
)
def test_every_good_output_is_delivered_once_and_every_other_one_is_visible(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[list[str], int]]
) -> None:
    """Jobs with outputs of all kinds, and a crash during each of them."""
    site = Site(Adapter(tmp_path_factory.mktemp("adapter"), CONFIGURATION))
    number = 0
    for index, (kinds, moment) in enumerate(batches):
        seed = f"study {index}"
        outputs, good = {}, []
        for kind in kinds:
            number += 1
            outputs[f"{number}"] = KINDS[kind](number, seed)
            if kind == "good":
                good.append(outputs[f"{number}"])
        job = site.start_job(seed)
        run_with_crash(site, job, outputs, moment)
        attachments = sum(kind in ATTACHMENTS for kind in kinds)
        check(site, job, good, bad=len(kinds) - len(good) - attachments, attachments=attachments)
    site.adapter.close()
