"""Errors of the `clara-rest` submitter against the emulator."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter import (
    Job,
    Permanent,
    Retriable,
    Secret,
)
from dicom_adapter_clara_client.emulator.faults import CallFaultKind
from dicom_adapter_clara_client.emulator.rest_server import serve


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, Retriable) for status in (408, 425, 429, 500, 502, 503, 504, 507)),
        *((status, Permanent) for status in (400, 401, 403, 404, 405, 409, 410, 412, 413, 422, 451, 501, 505)),
        *((status, Permanent) for status in (301, 302, 303, 307, 308)),
    ],
)
def test_every_error_status_is_permanent_or_retriable(
    site: Any, status: int, expected: type[Exception], job: Job
) -> None:
    """Temporary errors are retriable, all others permanent; the message names the status."""
    site.fail("Jobs.Create", CallFaultKind.STATUS, status=status)
    with pytest.raises(expected, match=rf"^job 0{{31}}1: create: .*{status}"):
        site.submitter.create_job(job)


def test_an_error_quotes_the_platforms_problem(site: Any, job: Job) -> None:
    """The message has title, detail and code of the problem."""
    expected = (
        f"job {job.job_id}: create: the platform answered 422 Unprocessable Entity; "
        f"No such pipeline: no pipeline {32 * 'b'} (code -4097)"
    )
    with pytest.raises(Permanent) as raised:
        site.submitter.create_job(evolve(job, pipeline_id=32 * "b"))
    # Python 3.13 names the status "Unprocessable Content".
    assert expected.replace("Entity", "") == str(raised.value).replace("Entity", "").replace("Content", "")


def test_an_error_is_short_and_printable(site: Any, job: Job) -> None:
    """The platform's text is truncated, and control characters are removed."""
    site.fail("Jobs.Create", CallFaultKind.STATUS, status=400, messages=("a\r\n\x1b[2J\u202eb" + 100_000 * "x",))
    with pytest.raises(Permanent) as raised:
        site.submitter.create_job(job)
    assert len(str(raised.value)) < 600
    assert str(raised.value).isprintable()


def test_retry_after_is_quoted(site: Any, job: Job) -> None:
    """The value only informs the operator, because the core computes the pauses."""
    site.fail("Jobs.Create", CallFaultKind.STATUS, status=503)
    with pytest.raises(Retriable, match="it asks to retry after 1 s"):
        site.submitter.create_job(job)


def test_concurrent_creations_create_one_job(site: Any, job: Job) -> None:
    """A call during the first attempt gets a retriable error."""
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(site.submitter.create_job, evolve(job, repeated=True)) for _ in range(32)]
    errors = [error for error in (call.exception() for call in calls) if error is not None]
    assert [] == [error for error in errors if not isinstance(error, Retriable) or "409 Conflict" not in str(error)]
    assert 1 == len({call.result() for call in calls if call.exception() is None}) == len(site.platform.jobs.list())


def test_a_platform_that_is_down_is_retriable(site: Any) -> None:
    """When the platform is running again, the next call succeeds."""
    job = site.created()
    site.server.stop()
    with pytest.raises(Retriable, match=r"status: .*(no connection|closed the connection|failed)"):
        site.submitter.status(job)
    site.server = serve(site.platform, site.server.address)
    assert "pending" == site.submitter.status(job).state


def test_a_call_without_a_response_times_out(site: Any) -> None:
    """A timeout is retriable."""
    job = site.created()
    site.fail("Jobs.Status", CallFaultKind.DELAY, seconds=30)
    with pytest.raises(Retriable, match="took too long"):
        site.connect(timeout=0.2).status(job)


def test_closing_aborts_running_calls(site: Any, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop of the service does not wait for a slow platform; a closed submitter refuses calls."""
    created, slow, arrived = site.created(job), site.connect(), threading.Event()
    take = site.faults.take

    def take_and_notify(*call: Any) -> Any:
        fault = take(*call)
        arrived.set()
        return fault

    monkeypatch.setattr(site.faults, "take", take_and_notify)
    site.fail("Jobs.Status", CallFaultKind.DELAY, seconds=30)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(slow.status, created)
        assert arrived.wait(30)
        slow.close()
        assert isinstance(call.exception(timeout=30), Retriable)
    with pytest.raises(RuntimeError, match="not open"):
        slow.status(created)


def test_the_token_is_sent_with_every_call(make_site: Callable[..., Any], job: Job) -> None:
    """The error for a wrong token names the setting to check."""
    site = make_site(token="right-token")
    with pytest.raises(Permanent, match=r"401 Unauthorized.*check the submitter's token"):
        site.connect(token=Secret("wrong-token")).create_job(job)
    assert site.connect(token=Secret("right-token")).create_job(job).job_id


def test_the_token_is_never_shown(make_site: Callable[..., Any], job: Job) -> None:
    """The token is neither in errors, even if the platform repeats the token, nor in any `repr`."""
    token = "private/0123456789"
    site = make_site()
    submitter = site.connect(token=Secret(token))
    site.fail("Jobs.Create", CallFaultKind.STATUS, status=403, messages=(f"{'x' * 290}Bearer {token} is not allowed",))
    with pytest.raises(Permanent) as raised:
        submitter.create_job(job)
    assert "private" not in str(raised.value)
    assert "private" not in repr((submitter, submitter.settings, vars(submitter)))
