"""The conformance suites find typical mistakes of plugins and name them."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_adapter.simulation.memory import memory_storage
from dicom_adapter.testing import BaseStorageBackendTests

# Imported here so that pytester does not remove this module: it removes the modules that were imported during its run.
from dicom_adapter.testing.adapter import Adapter  # noqa: F401 - see above

Expected = dict[str, str]


class TestMemory(BaseStorageBackendTests):
    """The storage in memory of the simulated adapter passes the suite, too."""

    streams = False

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "backend", memory_storage(), raising=False)


def run(pytester: pytest.Pytester, source: str, *tests: str) -> dict[str, str]:
    """Run the tests of a module that match one of `tests`. Return the messages of the failed tests, by name."""
    pytester.makepyfile(source)
    wanted = " or ".join(tests)
    result = pytester.inline_run("-p", "no:cacheprovider", "-p", "no:xdist", "-k", wanted)
    failed: dict[str, str] = {}
    for report in result.getreports("pytest_runtest_logreport"):
        if report.failed:
            name = "::".join(report.nodeid.split("::")[1:]).partition("[")[0]
            failed[name] = str(report.longrepr.reprcrash.message)  # type: ignore[union-attr] # a failed test has it
    return failed


def expect(failed: dict[str, str], expected: Expected) -> None:
    """Check that exactly these tests failed, each with a message that contains this text."""
    assert sorted(expected) == sorted(failed), failed
    assert {} == {name: failed[name] for name, part in expected.items() if part not in failed[name]}


PROCESSORS = """
import threading
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from uuid import uuid4

from dicom_adapter import JobPriority, JobProcessorBase, Waiting
from dicom_adapter.testing import BaseProcessorTests


# A correct processor. Each of the other classes makes one mistake.
class Careful(JobProcessorBase):
    name = "careful"

    def __init__(self, settings, context):
        super().__init__(settings, context)
        self.studies = defaultdict(dict)

    def handle_instance(self, instance):
        study = self.studies[instance.study_instance_uid]
        study[instance.sop_instance_uid] = instance
        if len(study) == 1:
            self.call_later(30, lambda: self.finish(instance.study_instance_uid))

    def finish(self, uid):
        instances = list(self.studies.pop(uid).values())
        self.submit_pipeline_job(self.job_name(instances), "p", JobPriority.NORMAL, instances)
        self.remove_instances(instances)

    def job_name(self, instances):
        return f"{self.ae_title}-{self.now():%H%M%S}"


# All objects use one dictionary.
class Shared(Careful):
    all_studies = defaultdict(dict)

    def __init__(self, settings, context):
        super().__init__(settings, context)
        self.studies = self.all_studies


# The constructor starts a thread, which is never stopped.
class Busy(Careful):
    def __init__(self, settings, context):
        super().__init__(settings, context)
        self.stopped = threading.Event()
        threading.Thread(target=self.stopped.wait, daemon=True).start()


class Forgetful(Careful):
    def remove_instances(self, instances):
        pass


# The job name has the system time instead of `self.now()`.
class WallClock(Careful):
    def job_name(self, instances):
        return f"job-{datetime.now(timezone.utc):%H%M%S.%f}"


# Groups become due in system time instead of `self.now()`.
class OwnClock(Careful):
    def handle_instance(self, instance):
        uid = instance.study_instance_uid
        if uid not in self.studies:
            self.call_at(datetime.now(timezone.utc) + timedelta(seconds=30), lambda: self.finish(uid))
        self.studies[uid][instance.sop_instance_uid] = instance


# Job names and labels contain patient IDs.
class Talkative(Careful):
    def job_name(self, instances):
        return f"job-of-{instances[0].patient_id or 'nobody'}"

    def waiting(self):
        patients = [next(iter(study.values())).patient_id for study in self.studies.values()]
        return [Waiting(label=patient, instance_count=1, until=None) for patient in patients]


# Every instance is expected to have a patient ID.
class Trusting(Careful):
    def handle_instance(self, instance):
        assert instance.patient_id.strip(), "there is always one"
        super().handle_instance(instance)


# A duplicate does not replace the earlier instance.
class ByInstanceId(Careful):
    def handle_instance(self, instance):
        study = self.studies[instance.study_instance_uid]
        study[instance.instance_id] = instance
        if len(study) == 1:
            self.call_later(30, lambda: self.finish(instance.study_instance_uid))

    def finish(self, uid):
        instances = list(self.studies.pop(uid).values())
        if len({instance.sop_instance_uid for instance in instances}) < len(instances):
            raise LookupError("twice")
        self.submit_pipeline_job("job", "p", JobPriority.NORMAL, instances)
        self.remove_instances(instances)


# Every report is expected to name one study.
class Knowing(Careful):
    def association_changed(self, association):
        if association.is_incomplete:
            [uid] = association.studies
            self.studies[uid].clear()


# Instances of interrupted associations are removed without a job.
class Impatient(Careful):
    def association_changed(self, association):
        if association.is_incomplete:
            half = [instance for study in self.studies.values() for instance in study.values()]
            self.remove_instances([one for one in half if one.association_id == association.association_id])


# `waiting` returns texts instead of Waiting objects.
class Wrong(Careful):
    def waiting(self):
        return ["a study"]


for cls in [Careful, Shared, Busy, Forgetful, WallClock, OwnClock, Talkative, Trusting, ByInstanceId, Knowing,
            Impatient, Wrong]:
    name = f"Test{cls.__name__}"
    globals()[name] = type(name, (BaseProcessorTests,), {"processor": cls, "all_jobs_after": 60})
"""


@pytest.mark.parametrize(
    ("cls", "tests", "expected"),
    [
        ("Careful", ["redelivery", "constructor", "patient_data", "reports_about"], {}),
        ("Shared", ["two_ae"], {"two_ae_titles_share_no_state": "another AE title uses the same processor"}),
        (
            "Busy",
            ["constructor", "no_threads"],
            {
                "constructor_has_no_side_effects": "the constructor started threads",
                "no_threads_remain_after_close": "threads still run after close()",
            },
        ),
        (
            "Forgetful",
            ["are_removed", "redelivery"],
            {
                "instances_become_jobs_and_are_removed": "instances never removed: 11",
                "redelivery_gives_the_same_jobs": "the jobs differ when the service restarts",
            },
        ),
        ("WallClock", ["redelivery"], {"redelivery_gives_the_same_jobs": "first difference: name job-"}),
        ("OwnClock", ["are_removed"], {"instances_become_jobs_and_are_removed": "no job was submitted within 60 s"}),
        ("Talkative", ["patient_data"], {"patient_data_is_not_visible": "a patient ID is visible in: <patient>"}),
        ("Trusting", ["malformed_values"], {"missing_and_malformed_values_are_handled": "AssertionError at "}),
        (
            "ByInstanceId",
            ["duplicate"],
            {"duplicate_replaces_the_earlier_instance": "LookupError at "},
        ),
        ("Knowing", ["reports_about"], {"reports_about_associations_lose_nothing": "ValueError at "}),
        (
            "Impatient",
            ["reports_about"],
            {"reports_about_associations_lose_nothing": "instances removed without a job"},
        ),
        (
            "Wrong",
            ["waiting_returns"],
            {"waiting_returns_valid_groups": "waiting() failed or returned something other than Waiting objects"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_of_a_processor_are_found(
    pytester: pytest.Pytester, cls: str, tests: list[str], expected: Expected
) -> None:
    """The message of the failed test names the rule that the plugin breaks."""
    failed = run(pytester, PROCESSORS, *(f"(Test{cls} and {test})" for test in tests))
    expect(failed, {f"Test{cls}::test_{name}": message for name, message in expected.items()})


STORAGE = """
from io import BytesIO
from uuid import uuid4

from dicom_adapter import InstanceWriter, StorageBackend, StoredObjectMissing
from dicom_adapter.testing import BaseStorageBackendTests


class Writer(InstanceWriter):
    def __init__(self, folder):
        self.path, self.pieces = folder / uuid4().hex, []

    def write(self, piece):
        self.pieces.append(piece)

    def finish(self):
        self.path.write_bytes(b"".join(self.pieces))
        return self.path.name

    def discard(self):
        pass


class Careless(StorageBackend):
    name = "careless"

    def __init__(self, settings, context):
        super().__init__(settings, context)
        (context.path / "instances").mkdir(exist_ok=True)

    @property
    def folder(self):
        return self.context.path / "instances"

    def writer(self):
        return Writer(self.folder)

    def sync(self, keys):
        pass

    def read(self, key):
        return (self.folder / key).open("rb")

    def delete(self, keys):
        for key in keys:
            (self.folder / key).unlink()

    def keys(self):
        return (path.name for path in self.folder.iterdir())

    def capacity(self):
        return None


class TestCareless(BaseStorageBackendTests):
    backend = Careless
"""


def test_mistakes_of_a_storage_backend_are_found(pytester: pytest.Pytester) -> None:
    """The backend works as long as nothing fails."""
    failed = run(pytester, STORAGE, "TestCareless")
    expect(
        {name.removeprefix("TestCareless::test_"): message for name, message in failed.items()},
        {
            "constructor_has_no_side_effects": "the constructor created files or folders: move that to open()",
            "buffer_may_be_reused_after_write": "write() kept the caller's buffer",
            "large_object_needs_little_memory": "write and read it in pieces",
            "invalid_keys_access_nothing": "",
            "sync_fails_if_an_object_is_missing": "DID NOT RAISE",
            "another_process_sees_what_was_synced": "FileNotFoundError",
            "discarded_objects_are_gone": "",
            "deleting_a_deleted_object_succeeds": "FileNotFoundError",
            "missing_object_raises_stored_object_missing": "FileNotFoundError",
        },
    )


SUBMITTER = """
import pytest

from dicom_adapter import PlatformJob, PlatformStatus, Submitter, SubmitterContext, NoSettings
from dicom_adapter.testing import BaseSubmitterTests, PlatformRecord


class Careless(Submitter):
    name = "careless"

    def __init__(self, settings, context):
        super().__init__(settings, context)
        context.data_folder.mkdir(parents=True, exist_ok=True)
        self.jobs = {}

    def create_job(self, job):
        made = PlatformJob(job_id=f"p{len(self.jobs)}")
        self.jobs[made.job_id] = {"metadata": {}, "files": [], "started": False, "cancelled": False}
        return made

    def add_metadata(self, job, metadata):
        self.jobs[job.platform_job_id]["metadata"].update(metadata)

    def upload(self, job, upload):
        try:
            self.jobs[job.platform_job_id]["files"].append(upload.open().read())
        except Exception:
            self.jobs[job.platform_job_id]["files"].append(b"half")

    def start(self, job):
        self.jobs[job.platform_job_id]["started"] = True

    def status(self, job):
        return "running"

    def cancel(self, job):
        self.jobs[job.platform_job_id]["cancelled"] = True


class TestCareless(BaseSubmitterTests):
    @pytest.fixture
    def only_one(self, tmp_path):
        return Careless(NoSettings(), SubmitterContext(name="s", data_folder=tmp_path / "own"))

    @pytest.fixture
    def make_submitter(self, only_one):
        return lambda: only_one

    @pytest.fixture
    def on_platform(self, only_one):
        return lambda: [PlatformRecord(platform_job_id=key, **job) for key, job in only_one.jobs.items()]
"""


def test_mistakes_of_a_submitter_are_found(pytester: pytest.Pytester) -> None:
    """The submitter works as long as every call is made once."""
    failed = run(pytester, SUBMITTER, "TestCareless")
    expect(
        {name.removeprefix("TestCareless::test_"): message for name, message in failed.items()},
        {
            "constructor_has_no_side_effects": "the constructor created its data folder: move that to open()",
            "every_step_is_idempotent": "a repeated create_job created another job",
            "uploads_may_arrive_in_any_order": "files must be in the order of their positions",
            "status_reports_the_state_of_a_job": "status must return a PlatformStatus, not str",
            "large_upload_needs_little_memory": "read and send it in pieces",
            "incomplete_upload_is_not_an_instance": "DID NOT RAISE",
            "cancelled_job_does_not_start": "DID NOT RAISE",
            "cancelling_an_unknown_job_succeeds": "KeyError",
        },
    )


FOLLOWER = (
    SUBMITTER.split("class TestCareless")[0]
    + """
from io import BytesIO

from dicom_adapter import Output


class Follower(Careless):
    name = "follower"
    follows_jobs = True

    def create_job(self, job):
        known = [key for key, made in self.jobs.items() if made["job_id"] == job.job_id]
        if known:
            return PlatformJob(job_id=known[0])
        made = super().create_job(job)
        self.jobs[made.job_id].update(job_id=job.job_id, outputs=None, ended=False)
        return made

    def status(self, job):
        made = self.jobs[job.platform_job_id]
        finished = made["ended"] or made["cancelled"]
        return PlatformStatus(state="ended", finished=finished, succeeded=made["outputs"] is not None or None)

    def results(self, job):
        for name, data in self.jobs[job.platform_job_id]["outputs"].items():
            whole = BytesIO(data)
            yield Output(name=name, open=lambda whole=whole: whole)

    def clean_up(self, job):
        del self.jobs[job.platform_job_id]


class TestFollower(BaseSubmitterTests):
    large_upload_bytes = None

    @pytest.fixture
    def only_one(self, tmp_path):
        return Follower(NoSettings(), SubmitterContext(name="s", data_folder=tmp_path / "own"))

    @pytest.fixture
    def make_submitter(self, only_one):
        return lambda: only_one

    @pytest.fixture
    def on_platform(self, only_one):
        keys = ("metadata", "files", "started", "cancelled")
        return lambda: [
            PlatformRecord(platform_job_id=number, **{key: job[key] for key in keys})
            for number, job in only_one.jobs.items()
        ]

    @pytest.fixture
    def end_job(self, only_one):
        return lambda job, outputs: only_one.jobs[job.platform_job_id].update(ended=True, outputs=outputs)
"""
)


def test_mistakes_at_the_end_of_a_job_are_found(pytester: pytest.Pytester) -> None:
    """The submitter works as long as all jobs succeed, and everything is called once."""
    failed = run(
        pytester,
        FOLLOWER,
        "TestFollower and (running_job or success_is or failure_is or cancelled_job_has or results or result_needs or "
        "cleaned or cleaning or further_run)",
    )
    expect(
        {name.removeprefix("TestFollower::test_"): message for name, message in failed.items()},
        {
            "failure_is_reported_with_its_reason": "PlatformStatus.succeeded must be False, not None",
            "cancelled_job_has_not_succeeded": "a cancelled job has not succeeded",
            "results_are_the_files_that_the_job_produced": "closed file",
            "ended_job_can_be_cleaned_up_twice": "KeyError",
            "cleaning_up_an_unknown_job_succeeds": "KeyError",
            "further_run_is_another_job": "identify jobs on the platform by `job.run_id`",
        },
    )


def test_a_suite_names_the_fixture_that_must_be_overridden(pytester: pytest.Pytester) -> None:
    """The message is not an AttributeError."""
    failed: dict[str, Any] = run(
        pytester,
        """
        from dicom_adapter.testing import BaseSubmitterTests

        class TestNothing(BaseSubmitterTests):
            pass
        """,
        "TestNothing and arrives_complete",
    )
    assert "override the fixture `make_submitter`" in failed["TestNothing::test_job_arrives_complete"]
