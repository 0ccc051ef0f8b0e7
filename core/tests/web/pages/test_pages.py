"""The pages: what they show, to operators and to viewers, and that names from the network appear as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from http import HTTPStatus
from typing import Any

import pytest

from dicom_adapter import JobState
from dicom_adapter.ledger import events, senders
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.senders import Rejected
from dicom_adapter.testing import make_instance
from dicom_adapter.web.access.principal import Role

from .conftest import VIEWER, Board, headers_of

PAGES = ("/", "/jobs", "/studies", "/quarantine", "/senders", "/events", "/configuration", "/plugins")
STUDY = "2.25.4711"
HOSTILE = "<img src=x>"


def receive(board: Board, **attributes: Any) -> None:
    """Receive an instance of STUDY, and let its group become a job."""
    values = {"StudyInstanceUID": STUDY, "PatientID": "PAT-9", "AccessionNumber": "ACC-7", **attributes}
    board.adapter.receive(make_instance(**values), ae_title="LUNG")
    board.adapter.advance(seconds=60)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_an_empty_service_says_what_to_do(board: Board, path: str) -> None:
    """Each page has a heading, and no page loads or runs anything from elsewhere."""
    response = board.read(path)
    assert HTTPStatus.OK == response.status_code
    assert "<h1" in response.text
    assert "no-store" == response.headers["cache-control"]
    assert "default-src 'none'; script-src 'self'" in response.headers["content-security-policy"]
    assert [] == re.findall(r'<script(?! src=| type="module" src=)|style=|\son[a-z]+=|https?://', response.text)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_a_session(board: Board, path: str) -> None:
    """A browser without a session is sent to the page where it can sign in."""
    response = board.client.get(path, headers={"Accept": "text/html"}, follow_redirects=False)
    assert HTTPStatus.SEE_OTHER == response.status_code
    assert response.headers["location"].startswith("/sign-in?next=")
    assert "Token" in board.client.get("/sign-in").text


def test_the_overview_shows_each_ae_title(board: Board) -> None:
    receive(board)
    board.adapter.receive(make_instance(StudyInstanceUID="2.25.5"), ae_title="LUNG")
    page = board.get("/")
    assert "AE title LUNG" in page
    assert "Last arrival" in page
    assert "No instance has arrived yet" not in page


def test_a_job_is_listed_and_has_a_page_with_its_way(board: Board) -> None:
    receive(board)
    (job,) = board.adapter.jobs
    assert f'href="/jobs/{job.job_id}"' in board.get("/jobs")
    page = board.get(f"/jobs/{job.job_id}")
    assert ["Queued", "Created", "Metadata sent", "Uploaded", "Started"] == re.findall(
        r'<li class="done"[^>]*><strong>([^<]+)', page
    )
    assert f'href="/studies/{STUDY}"' in page
    assert "No job matches" in board.get("/jobs?state=held")
    assert job.job_id in board.get("/jobs?state=finished&ae-title=LUNG&submitter=memory")


def test_a_list_of_jobs_continues_on_the_next_page(board: Board) -> None:
    """Each job is on one page."""
    for number in range(51):
        board.adapter.receive(make_instance(StudyInstanceUID=f"2.25.{number + 1}"), ae_title="LUNG")
    board.adapter.advance(seconds=60)
    first = board.get("/jobs")
    link = unescape(re.findall(r'href="(/jobs\?before=[0-9]+)"', first)[0])
    found = [re.findall(r'class="uid" href="/jobs/([0-9a-f]{32})"', page) for page in (first, board.get(link))]
    assert [50, 1] == [len(set(jobs)) for jobs in found]
    assert {job.job_id for job in board.adapter.jobs} == {*found[0], *found[1]}


@pytest.mark.parametrize("query", ["?before=-1", "?before=99999999999999999999", "?state=x&ae-title=%00", "?before="])
@pytest.mark.parametrize("path", ["/jobs", "/quarantine", "/events", "/senders"])
def test_a_page_ignores_values_that_make_no_sense(board: Board, path: str, query: str) -> None:
    assert HTTPStatus.OK == board.read(path + query).status_code


@pytest.mark.parametrize("value", [STUDY, "ACC-7", "PAT-9", "the SOP Instance UID", "the job id", " 2.25.4711 "])
def test_a_search_finds_the_study_or_job(board: Board, value: str) -> None:
    """Exactly one match is opened at once. Nothing that identifies a patient is part of an address."""
    receive(board, SOPInstanceUID="2.25.99")
    (job,) = board.adapter.jobs
    value = {"the SOP Instance UID": "2.25.99", "the job id": job.job_id[:8]}.get(value, value)
    expected = {"2.25.99": "/studies/2.25.99", job.job_id[:8]: f"/jobs/{job.job_id[:8]}"}
    found = board.client.post("/studies/search", json={"value": value}, headers=headers_of(Role.OPERATOR)).json()
    assert expected.get(value, f"/studies/{STUDY}") == found["goTo"]


@pytest.mark.parametrize("value", ["ACC-7", "PAT-9", "", "x" * 300, "12"])
def test_a_viewer_finds_nothing_by_patient_data(board: Board, value: str) -> None:
    """An answer to a Patient ID or Accession Number would be patient data. Verified to fail without the rule."""
    receive(board)
    answers = [
        board.client.post("/studies/search", json={"value": each}, headers=headers_of(Role.VIEWER)).json()
        for each in (value, "certainly unknown")
    ]
    assert ["", ""] == [answer["goTo"] for answer in answers]
    assert STUDY not in answers[0]["html"]


def test_a_viewer_sees_no_patient_data(board: Board) -> None:
    """No page for viewers has a Patient ID, an Accession Number or a button for a change."""
    receive(board)
    (job,) = board.adapter.jobs
    pages = [board.get(path, role=Role.VIEWER) for path in (*PAGES, f"/studies/{STUDY}", f"/jobs/{job.job_id}")]
    assert [] == [text for page in pages for text in ("PAT-9", "ACC-7", "data-method=", VIEWER) if text in page]
    assert "PAT-9" in board.get(f"/studies/{STUDY}")
    log = board.read(f"/jobs/{job.job_id}/log", role=Role.VIEWER)
    assert HTTPStatus.FORBIDDEN == log.status_code


def test_names_from_the_network_appear_as_text(board: Board) -> None:
    """AE titles, descriptions, reasons and UIDs are escaped. Verified to fail without autoescape."""
    receive(board, PatientID=HOSTILE, AccessionNumber="<i>")
    now = board.adapter.resources.clock.now()
    rejected = Rejected(
        peer_address="10.0.0.7",
        calling_ae_title=HOSTILE,
        ae_title=HOSTILE,
        cause="called-ae-title",
        reason=HOSTILE,
        count=1,
        first_at=now,
        last_at=now,
    )
    event = Event(at=now, event="job_faulted", ae_title=HOSTILE, detail={HOSTILE: HOSTILE})
    with board.adapter.resources.ledger.write() as transaction:
        senders.add_rejections(transaction, [rejected])
        events.record(transaction, [event])
    pages = [board.get(path) for path in (*PAGES, f"/studies/{STUDY}", f"/jobs?ae-title={HOSTILE}")]
    assert [] == [page for page in pages if HOSTILE in page]
    assert all("&lt;img src=x&gt;" in page for page in (pages[4], pages[5], pages[8]))


@pytest.mark.parametrize("path", [*PAGES, "/sign-in", "/nothing"])
def test_a_page_loads_nothing_from_elsewhere_and_runs_only_its_own_scripts(board: Board, path: str) -> None:
    """The policy forbids inline scripts, inline styles and frames; the page has none, and no foreign address."""
    response = board.read(path)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "no-store" == response.headers["cache-control"]
    assert None is re.search(r"<style| style=| on[a-z]+=|<iframe|<script(?! src=| type=\"module\" src=)", response.text)
    assert [] == [link for link in re.findall(r'(?:src|href|action)="([^"]*)"', response.text) if "//" in link]


def test_an_address_adds_no_header_and_no_markup(board: Board) -> None:
    """Line breaks in an address end in no header of the answer, and the page to sign in has its text escaped."""
    odd = "%0d%0aX-Injected:%20yes%22%3e%3cimg%20src=x%3e"
    for path in (
        f"/sign-in?next={odd}",
        f"/jobs?ae-title={odd}",
        f"/jobs{odd}",
        f"/studies/{odd}",
        f"/senders?name={odd}",
    ):
        for headers in (headers_of(Role.OPERATOR), {"Accept": "text/html"}):
            response = board.client.get(path, headers=headers, follow_redirects=False)
            assert "x-injected" not in response.headers
            assert "<img src=x>" not in response.text


@pytest.mark.parametrize("path", ["/nothing", "/jobs/abcdef", "/studies/2.25.404", "/static/0/dashboard.css"])
def test_an_unknown_address_has_a_page_that_leads_back(board: Board, path: str) -> None:
    """Programs get problem details instead."""
    response = board.read(path)
    assert HTTPStatus.NOT_FOUND == response.status_code
    assert 'href="/"' in response.text
    program = {**headers_of(Role.OPERATOR), "Accept": "application/json"}
    assert "application/problem+json" == board.client.get(path, headers=program).headers["content-type"]


def test_static_files_are_kept_by_browsers(board: Board) -> None:
    """Their paths contain a digest of their content. They need no session."""
    link = re.findall(r'href="(/static/[0-9a-f]+/dashboard.css)"', board.client.get("/sign-in").text)[0]
    response = board.client.get(link)
    assert "immutable" in response.headers["cache-control"]
    assert "text/css; charset=utf-8" == response.headers["content-type"]


def test_secrets_of_the_configuration_are_not_shown(
    board_of: Callable[[str], Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page has no access to them: the ledger contains digests, which are hidden, too."""
    from dicom_adapter.ledger import configurations
    from dicom_adapter.service.reload.take_snapshot import snapshot

    monkeypatch.setenv("TOKEN", "a-secret-of-operators")
    board = board_of(
        '[http]\ntoken = { env = "TOKEN" }\n[ae-titles.LUNG]\nprocessor = "by-study"\n'
        'settings = { pipeline-one = "p1" }'
    )
    settings = snapshot(board.adapter.config, board.adapter._plugins, "salt").to_json()
    with board.adapter.resources.ledger.write() as transaction:
        configurations.record_start(transaction, "", "", settings, board.adapter.resources.clock.now())
    page = board.get("/configuration")
    assert "AE title LUNG" in page
    assert "secret, not shown" in page
    assert [] == re.findall("a-secret-of-operators|secret [0-9a-f]{64}", page)


def test_events_are_filtered(board: Board) -> None:
    receive(board)
    assert "job queued" in board.get("/events?kind=job_")
    assert "job queued" not in board.get("/events?kind=instance_")
    assert "job queued" not in board.get("/events?kind=job_&ae-title=BONE")


def test_silent_sender_is_marked(board: Board) -> None:
    """A sender that sent every minute has been silent for two days."""
    for _ in range(12):
        receive(board)
    now = board.adapter.resources.clock.now()
    sender = senders.Sender(
        calling_ae_title="CT1", ae_title="LUNG", peer_address="10.0.0.7", associations=100, instances=5, refused=0,
        first_at=now - timedelta(hours=3), last_at=now,
    )  # fmt: skip
    with board.adapter.resources.ledger.write() as transaction:
        senders.add_associations(transaction, [sender])
    assert ">active<" in board.get("/senders")
    board.adapter.advance(seconds=2 * 86400)
    assert ">silent<" in board.get("/senders?name=ct")


def test_states_of_jobs_are_the_choices_of_the_filter(board: Board) -> None:
    for state in JobState:
        assert HTTPStatus.OK == board.read(f"/jobs?state={state.value}").status_code
