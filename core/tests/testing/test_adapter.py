"""The `adapter` fixture: instances at given times lead to jobs, and failed expectations explain the difference."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO

import pytest
from pydicom import dcmread

from dicom_adapter import (
    InstanceStorageInfo,
    JobPriority,
    JobProcessorBase,
    JobState,
    NoSettings,
    Permanent,
    Retriable,
    Unprocessable,
    hookimpl,
)
from dicom_adapter.testing import Adapter, ExpectedJob, Plugin, make_instance, make_study

MakeAdapter = Callable[..., Adapter]
LUNG = '[ae-titles.LUNG]\nprocessor = "by-study"\nsettings = { pipeline-lung = "p-lung" }\n'


@pytest.fixture
def adapter_configuration() -> str:
    return LUNG


# --- these instances, therefore these jobs ----------------------------------------------------------------------------


def test_every_arrival_restarts_the_wait(adapter: Adapter) -> None:
    """A typical test of a plugin author has five lines."""
    study = make_study(instances=4)
    for second, instance in zip((0, 4, 7, 8), study, strict=True):
        adapter.receive(instance, at=second)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=13), by=60)


def test_no_jobs_can_be_expected(adapter: Adapter) -> None:
    """No job is created until the group is due."""
    adapter.receive(make_instance())
    adapter.expect_jobs(by=4.999)


def test_all_properties_of_a_job_can_be_expected(adapter: Adapter) -> None:
    adapter.receive(make_instance())
    adapter.expect_jobs(
        ExpectedJob(
            "p-lung",
            instances=1,
            at=5,
            ae_title="LUNG",
            name="LUNG-lung-20260105080005",
            priority=JobPriority.NORMAL,
            state=JobState.SUBMITTED,
            metadata={"Instances": "1"},
        ),
        by=5,
    )


def test_states_and_priorities_can_be_written_as_texts(adapter: Adapter) -> None:
    """A text that is none of the values is an error of the test. Verified to fail without a converter."""
    adapter.receive(make_instance())
    adapter.expect_jobs(ExpectedJob("p-lung", priority="normal", state="submitted"), by=5)
    assert "job 1: state submitted instead of faulted" == failure(adapter, ExpectedJob("p-lung", state="faulted"))[1]
    with pytest.raises(
        ValueError, match=r"^ExpectedJob\(state='broken'\): must be a JobState, or one of queued, .*faulted"
    ):
        ExpectedJob("p-lung", state="broken")
    with pytest.raises(ValueError, match=r"must be a JobPriority, or one of lower, normal, higher, immediate$"):
        ExpectedJob("p-lung", priority="urgent")


def failure(adapter: Adapter, *expected: ExpectedJob, by: float | None = None) -> list[str]:
    with pytest.raises(AssertionError) as raised:
        adapter.expect_jobs(*expected, by=by)
    return str(raised.value).splitlines()


def test_a_missing_job_is_reported_with_the_waiting_group(adapter: Adapter) -> None:
    """The message shows why there is no job yet."""
    study = make_study(instances=2, study_uid="1.2.3")
    adapter.receive(*study)
    assert [
        "the jobs are not as expected (1 job expected, 0 found):",
        "job 1 is missing: pipeline p-lung, instances 2, at 5 s",
        "",
        "at 4.5 s (08:00:04 UTC)",
        "jobs: none",
        "AE title LUNG, processor by-study (groups by study, ready 5 s after the last instance): running",
        "  instances: 2 pending",
        "  waiting: study 1.2.3, 2 instances, until 5 s",
    ] == failure(adapter, ExpectedJob("p-lung", instances=study, at=5), by=4.5)


def test_an_unexpected_job_is_reported(adapter: Adapter) -> None:
    """The message has all properties of the job."""
    adapter.receive(make_instance())
    lines = failure(adapter, by=5)
    job = "pipeline p-lung, instances 1, at 5 s, AE title LUNG, name LUNG-lung-20260105080005, priority normal"
    assert [f"job 1 was not expected: {job}, state submitted"] == lines[1:2]
    assert f"  1. {job}, state submitted" in lines
    assert "  instances: 1 reclaimed" in lines


def test_each_difference_of_a_job_is_reported(adapter: Adapter) -> None:
    """The message has the actual and the expected value."""
    first, second = make_study(instances=2)
    adapter.receive(first, second)
    other = make_instance()
    uids = [instance.SOPInstanceUID for instance in (first, second, other)]
    expected = ExpectedJob("p-liver", instances=[first, other], at=6, metadata={"Source": "CT1"}, ae_title="HEAD")
    assert [
        "job 1: at 5 s instead of 6 s",
        "job 1: pipeline p-lung instead of p-liver",
        "job 1: AE title LUNG instead of HEAD",
        "job 1: metadata Source is 'LUNG (by-study)' instead of 'CT1'",
        f"job 1: 2 instances instead of 2: missing ['{uids[2]}'], not expected ['{uids[1]}']",
    ] == failure(adapter, expected, by=5)[1:6]
    swapped = failure(adapter, ExpectedJob("p-lung", instances=[second, first]))[1]
    assert swapped.startswith("job 1: the instances are in another order: ")
    assert "job 1: 2 instances instead of 3" == failure(adapter, ExpectedJob("p-lung", instances=3))[1]


class Picky(JobProcessorBase[NoSettings]):
    """A processor that quarantines instances of the patient BAD, and fails for the patient BUG."""

    name = "picky"

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        if instance.patient_id == "BAD":
            raise Unprocessable("it is not for this AE title")
        if instance.patient_id == "BUG":
            raise KeyError("a bug")
        self.submit_pipeline_job("job", "p", JobPriority.NORMAL, [instance])
        self.remove_instances([instance])


class PickyPlugin:
    @hookimpl
    def dicom_adapter_processors(self) -> list[type[Picky]]:
        return [Picky]


def test_the_description_has_every_failure(make_adapter: MakeAdapter) -> None:
    """Quarantined and refused instances, failed turns and faulted jobs are described with their reasons."""
    adapter = make_adapter('[ae-titles.A]\nprocessor = "picky"\n', Plugin(PickyPlugin()))
    adapter.platform.fail("start", Permanent("the platform is full"))
    pending = make_instance(patient_id="BUG", sop_uid="1.2.3")
    changed = make_instance(patient_id="BUG", sop_uid="1.2.3", rows=8)
    invalid = make_instance()
    invalid.StudyInstanceUID = ""
    adapter.receive(make_instance(patient_id="OK"), make_instance(patient_id="BAD"), pending)
    adapter.receive(changed, invalid)
    description = adapter.describe()
    assert "an instance was not stored (0xA900): " in description
    assert "instance_quarantined at 0 s: another data set with this SOP Instance UID is pending" in description
    assert "state faulted (the platform is full)" in description
    assert "instance_quarantined at 0 s: it is not for this AE title" in description
    assert "processor_failed at 0 s: KeyError at " in description
    assert repr(adapter) == description


def test_a_plain_assert_shows_the_description(pytester: pytest.Pytester) -> None:
    """`assert [] == adapter.jobs` is sufficient to see which jobs there are, and which groups wait."""
    pytester.makepyfile(
        f"""
        from dicom_adapter.testing import make_instance

        def test_none(make_adapter):
            adapter = make_adapter({LUNG!r})
            adapter.receive(make_instance(study_uid="1.2.3"), make_instance(study_uid="1.2.4"))
            adapter.advance(4)
            adapter.receive(make_instance(study_uid="1.2.3"))
            adapter.advance(1)
            assert [] == adapter.jobs
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(
        [
            "E*assert [[]] == <1 jobs>",
            "E*1. pipeline p-lung, instances 1, at 5 s, AE title LUNG*",
            "E*waiting: study 1.2.3, 2 instances, until 9 s",
        ]
    )


# --- time and place ---------------------------------------------------------------------------------------------------


def test_time_does_not_go_backwards(adapter: Adapter) -> None:
    """An instance cannot arrive before an earlier one."""
    adapter.advance(10)
    with pytest.raises(ValueError, match="the virtual clock cannot go back to 9 s: it is at 10 s"):
        adapter.receive(make_instance(), at=9)


def test_an_ae_title_is_required_if_several_are_configured(make_adapter: MakeAdapter) -> None:
    """The fixture does not choose an AE title."""
    adapter = make_adapter(LUNG + LUNG.replace("LUNG", "HEAD"))
    with pytest.raises(ValueError, match="several AE titles are configured; pass one of them: ae_title=LUNG or HEAD"):
        adapter.receive(make_instance())
    adapter.receive(make_instance(), ae_title="HEAD")
    adapter.expect_jobs(ExpectedJob("p-lung", ae_title="HEAD"), by=5)


def test_the_platform_has_the_submitted_jobs(adapter: Adapter) -> None:
    """The submitter `memory` keeps metadata and files. Faults are retried as those of any platform."""
    adapter.platform.fail("upload", Retriable("too busy"), times=2)
    study = make_study(instances=2)
    adapter.receive(*study)
    adapter.advance(600)
    (received,) = adapter.platform.jobs.values()
    assert study == [dcmread(BytesIO(received.files[place])) for place in range(2)]
    assert (True, "2") == (received.started, received.metadata["Instances"])
    with pytest.raises(ValueError, match="a submitter has no call 'uplaod'"):
        adapter.platform.fail("uplaod", Retriable("typing error"))


def test_the_storage_in_memory_survives_a_restart(adapter: Adapter) -> None:
    """The storage keeps the instances, and the group keeps its deadline."""
    study = make_study(instances=2)
    adapter.receive(*study)
    adapter.advance(3)
    adapter.restart()
    assert 2 == len(list(adapter.storage.keys()))
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=5), by=5)
    assert [] == list(adapter.storage.keys())


def test_two_adapters_share_nothing(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each adapter has a separate storage and platform."""
    other = Adapter(tmp_path_factory.mktemp("other"), LUNG)
    adapter.receive(make_instance())
    adapter.advance(5)
    assert ({}, [], {}) == (other.states, list(other.storage.keys()), other.platform.jobs)
    other.close()


def test_a_configuration_may_define_storage_and_submitter(make_adapter: MakeAdapter) -> None:
    """The fixture adds nothing to these tables."""
    adapter = make_adapter('storage = { path = "data", reserve = 0 }\nsubmitters.p.type = "memory"\n' + LUNG)
    assert ("local", ["p"]) == (adapter.config.storage.backend, list(adapter.config.submitters))


# --- over the network -------------------------------------------------------------------------------------------------


def test_instances_can_be_sent_over_a_real_association(adapter: Adapter) -> None:
    """The real receiver stores them at the simulated time, and the platform receives them unchanged."""
    study = make_study(modality="SR", instances=2)
    assert [True, True] == [result.ok for result in adapter.send(*study, calling_ae_title="CT1")]
    assert [True] == [result.ok for result in adapter.send(make_instance(modality="SEG"), at=2)]
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=5), ExpectedJob("p-lung", instances=1, at=7), by=60)
    first = next(iter(adapter.platform.jobs.values()))
    received = [dcmread(BytesIO(first.files[place])) for place in range(2)]
    assert study == received
    assert "CT1" == received[0].file_meta.SourceApplicationEntityTitle


def test_a_rejection_by_the_receiver_is_reported(adapter: Adapter) -> None:
    """The AE title is not configured."""
    (result,) = adapter.send(make_instance(), ae_title="NOBODY")
    assert (False, None) == (result.ok, result.status)
    assert "called ae title not recognised" in result.message


# --- in pytest --------------------------------------------------------------------------------------------------------


def test_the_fixture_reports_a_missing_configuration(pytester: pytest.Pytester) -> None:
    """The message is one line, without a traceback."""
    pytester.makepyfile("def test_it(adapter): ...")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["the fixture `adapter` needs a configuration: define a fixture *"])


def test_pytest_starts_without_the_adapter() -> None:
    """The plugin for pytest must not slow down other test suites."""
    heavy = "{'sqlalchemy', 'pydicom', 'pynetdicom', 'alembic'}"
    program = f"import dicom_adapter.testing.fixtures, sys; print(sorted({heavy} & sys.modules.keys()))"
    assert "[]\n" == subprocess.check_output([sys.executable, "-c", program], text=True)
