"""The text of jobs for people. Ids and commands are never cut, even in a narrow terminal: they can be copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import typer
from attrs import field, frozen

from dicom_adapter.api.counts import counted
from dicom_adapter.api.values import INTERRUPTED, Job, JobState
from dicom_adapter.cli.times import Times
from dicom_adapter.cli.wrapping import titled, with_options, wrapped
from dicom_adapter.ledger.clean_ups import CleanUp
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.health import PartHealth, PartState
from dicom_adapter.ledger.jobs import HELD, UNFINISHED, JobStudies, is_on_platform
from dicom_adapter.operations.story.jobs import STEPS, names_log
from dicom_adapter.operations.waiting_jobs import why_waits

SHORT_ID = 8  # number of characters of a job id in a command to type; commands accept such a prefix
COLOURS = {
    JobState.SUBMITTED: "green",
    JobState.SUCCEEDED: "green",
    JobState.FAULTED: "red",
    JobState.FAILED: "red",
    JobState.CANCELLED: "bright_black",
}


@frozen(kw_only=True)
class JobWriter:
    """Writer that describes jobs in lines of text."""

    times: Times
    now: datetime  # UTC
    options: str = ""  # options to add to the commands in the text, such as ` -c adapter.toml`
    parts: Mapping[str, PartHealth] = field(factory=dict)  # health of the parts of the service

    def block(self, job: Job, studies: JobStudies) -> Iterator[str]:
        """Yield the lines of one job in a list."""
        state = typer.style(job.state.value, fg=COLOURS.get(job.state, "yellow"))
        yield f"{job.job_id}  {state} since {self.times.full(job.changed_at)}"
        yield from wrapped(job.name)
        yield from wrapped(f"AE title {job.ae_title}, pipeline {job.pipeline_id}, priority {job.priority.value}")
        study = f"study {studies.first}" if studies.count == 1 else counted(studies.count, "study")
        if job.instance_count or not job.attachment_count:
            yield from wrapped(f"{counted(job.instance_count, 'instance')} of {study}")
        if job.attachment_count:
            yield from wrapped(counted(job.attachment_count, "attachment"))
        for line in (self.missing(job), self.problem(job), self.outlook(job)):
            yield from wrapped(line)

    def missing(self, job: Job) -> str:
        """Return why instances of a job may be missing; "" if nothing is known."""
        known = job.metadata.get(INTERRUPTED, "")
        return f"instances may be missing: {self.times.in_text(' '.join(known.split()))}" if known else ""

    def problem(self, job: Job) -> str:
        """Return the last error of a job that makes no progress; "" if it has none."""
        if not job.last_error:
            return ""
        tried = f"attempt {job.attempts} failed" if job.attempts else "failed"
        error = with_options(self.times.in_text(" ".join(job.last_error.split())), self.options)
        return f"{tried}: {error}"

    def outlook(self, job: Job) -> str:
        """Return what happens next with a job, with the command to type if an operator has to decide; "" if nothing."""
        name = job.job_id[:SHORT_ID]
        if job.state in HELD:
            shows_log = job.state is JobState.FAILED and not names_log(job)
            log = f"`dicom-adapter jobs show {name} --log{self.options}` shows its log; then " if shows_log else ""
            return f"waits for an operator: {log}`dicom-adapter jobs retry {name}{self.options}`, or `jobs cancel`"
        if job.state in UNFINISHED:
            return self._next_step(job)
        if job.state is JobState.SUBMITTED and job.platform_state:
            return f"on the platform{_reported(job)}"
        return ""

    def _next_step(self, job: Job) -> str:
        if is_on_platform(job):
            return f"runs on the platform since {self.times.full(job.started_at or job.changed_at)}{_reported(job)}"
        step = "cancel it on the platform" if job.cancel_requested else STEPS[job.state]
        if job.next_attempt_at is not None:
            past = (
                "" if job.next_attempt_at >= self.now else ", which is in the past: the service is late or not running"
            )
            return f"next attempt to {step} at {self.times.full(job.next_attempt_at)}{past}"
        platform = self.parts.get(f"platform {job.submitter}")
        if platform is not None and platform.state in (PartState.FAILING, PartState.HANGS):
            return f"waits for the platform of submitter {job.submitter} to {step}"
        reason = why_waits(job, self.parts, self.now)
        return f"waits: {reason}" if reason else f"next step: {step}"

    def line(self, job: Job) -> str:
        """Return the state of a job for `jobs watch`: one line, or several if it is wider than the terminal."""
        reported = job.platform_state if job.platform_state != job.state.value else ""
        state = f"{job.state.value} ({reported})" if reported else job.state.value
        if job.cancel_requested and job.state in UNFINISHED:
            state = f"{state}, is being cancelled"
        words = (self.times.clock(job.changed_at), job.job_id[:SHORT_ID], job.name, state, self.problem(job))
        return "\n".join(wrapped("  ".join(word for word in words if word), first=""))

    def clean_up(self, job: Job, waiting: CleanUp) -> str:
        """Return what the platform still has to delete, and why it has not been deleted yet."""
        run = f"of run {waiting.job.run} " if job.run > 1 else ""
        if waiting.next_attempt_at is None:
            return f"the files {run}on the platform will be deleted"
        failed = f"attempt {waiting.attempts} failed: {self.times.in_text(' '.join(waiting.last_error.split()))}"
        when = self.times.full(waiting.next_attempt_at)
        return f"the files {run}on the platform are not deleted yet; {failed}; next attempt at {when}"

    def details(
        self, job: Job, studies: Mapping[str, int], events: list[Event], clean_ups: Sequence[CleanUp] = ()
    ) -> Iterator[str]:
        """Yield the lines of `jobs show`."""
        yield from titled("job", job.job_id)
        yield from titled("name", job.name)
        yield from titled("AE title", job.ae_title)
        yield from titled("pipeline", job.pipeline_id)
        yield from titled("submitter", job.submitter)
        yield from titled("priority", job.priority.value)
        yield from titled("instances", str(job.instance_count))
        yield from titled("attachments", str(job.attachment_count) if job.attachment_count else "")
        for number, (study, count) in enumerate(studies.items()):
            yield from titled("" if number else "studies", f"{study} ({counted(count, 'instance')})")
        yield from titled("created", self.times.full(job.created_at))
        yield from titled("run", str(job.run) if job.run > 1 else "")
        yield from titled("state", f"{job.state.value} since {self.times.full(job.changed_at)}")
        yield from titled("notice", self.missing(job))
        yield from titled("problem", self.problem(job))
        yield from titled("next", self.outlook(job))
        for waiting in clean_ups:
            yield from titled("clean-up", self.clean_up(job, waiting))
        yield from titled("platform job", job.platform_job_id)
        yield from titled("platform payload", job.platform_payload_id)
        yield ""
        yield from event_lines(events, self.times, job.last_error)


def event_lines(events: list[Event], times: Times, shown: str = "") -> Iterator[str]:
    """Yield the lines of events. An error that was `shown` or is the error of an earlier event is not repeated."""
    seen = {shown}
    for event in events:
        detail = {key: value for key, value in event.detail.items() if value not in (None, "")}
        if "next_attempt_at" in detail:
            detail["next_attempt_at"] = times.full(datetime.fromisoformat(str(detail["next_attempt_at"])))
        error = str(detail.get("error", ""))
        if error and error in seen:
            detail["error"] = "as above"
        seen.add(error)
        yield f"{times.full(event.at)}  {event.event}"
        for key, value in detail.items():
            yield from wrapped(f"{key}: {times.in_text(' '.join(str(value).split()))}")


def _reported(job: Job) -> str:
    """Return the status that the platform has reported; "" if it has not reported any."""
    detail = f" ({job.platform_detail})" if job.platform_detail else ""
    return f": {job.platform_state}{detail}" if job.platform_state else ""
