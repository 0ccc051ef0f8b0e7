"""The dashboard of the real service in a real browser, on a desktop and on a phone.

One service and one browser serve all tests of this module.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

from dicom_adapter.dicom import synthetic
from dicom_adapter.ledger import Ledger, senders
from dicom_adapter.ledger.senders import Rejected
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.testing.service import Service
from support.browser import DESKTOP, PATIENCE_MS, PHONE, chromium, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = [pytest.mark.slow, pytest.mark.chromium]

OPERATOR, VIEWER = "operator-0123456789", "viewer-0123456789abc"
PAGES = ("/", "/jobs", "/studies", "/quarantine", "/senders", "/events", "/configuration", "/plugins")
HOSTILE = "<b>CT</b>"  # an AE title of nine characters
MARKUP = '"><img src=x onerror=alert(1)>'
CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[http]
port = 0
token = { file = "operator.token" }
[http.tokens.night]
role = "viewer"
secret = { file = "viewer.token" }

[submitters.platform]
type = "fake"
folder = "platform"
outcome = "succeeds"
secondary-capture = true
status-every = 1
fail = [{ call = "start", kind = "permanent", pipeline = "fragile" }]

[submitters.archive]
type = "folder"
path = "archive"

[ae-titles.LUNG]
submitter = "platform"
settings = { group-by = "study", timeout = 5, pipeline-lung = "steady" }
results = { to = ["archive"] }

[ae-titles.BONE]
submitter = "platform"
settings = { group-by = "study", timeout = 5, pipeline-bone = "fragile" }

[ae-titles."SPACED OUT"]
submitter = "platform"
settings = { group-by = "study", timeout = 5, pipeline-lung = "steady" }

[ae-titles.HEAD]
submitter = "platform"
settings = { group-by = "AdmissionID", timeout = 5, pipeline-head = "steady" }
"""


@frozen
class Site:
    """The service with its dashboard, and the browser."""

    service: Service
    browser: Browser
    url: str

    def send(self, ae_title: str, patient_id: str = "PAT-1", description: str = "Chest") -> str:
        """Send a small study, and return its UID."""
        study = synthetic.make_study(
            modality="CT", instances=2, rows=2, columns=2, patient_id=patient_id, StudyDescription=description
        )
        assert all(result.ok for result in self.service.send(*study, ae_title=ae_title, calling_ae_title="CT1"))
        return str(study[0].StudyInstanceUID)

    def sign_in(self, page: Page, token: str = OPERATOR) -> None:
        """Sign in, and wait for the overview."""
        page.goto("/sign-in")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{self.url}/")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "archive").mkdir()
    for name, token in (("operator", OPERATOR), ("viewer", VIEWER)):
        (folder / f"{name}.token").write_text(token, encoding="utf-8")
    path = folder / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    with chromium() as browser:
        service = Service(path, "--port", "0")
        try:
            service.port()
            port = service.wait_for("http_listening")["port"]
            yield Site(service, browser, f"http://127.0.0.1:{port}")
        finally:
            service.kill()


def shows(page: Page, text: str) -> None:
    """Wait until the page shows a text."""
    page.get_by_text(text, exact=False).first.wait_for(timeout=PATIENCE_MS)


def test_a_study_is_followed_to_its_delivery_live(site: Site) -> None:
    """Nobody reloads the page: the job, its result and the delivery appear in it. Times are in the browser's zone."""
    with open_page(site.browser, site.url) as page:
        site.sign_in(page)
        shows(page, "No instance has arrived yet")
        study = site.send("LUNG", patient_id="PAT-LIVE")
        shows(page, "due in")  # the waiting group, with a countdown
        page.goto("/studies")
        page.get_by_role("searchbox").fill("PAT-LIVE")
        page.get_by_role("searchbox").press("Enter")
        page.wait_for_url(f"{site.url}/studies/{study}")
        shows(page, "PAT-LIVE")
        shows(page, "was queued to deliver 1 result")
        page.locator("aside").get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
        page.locator(".way li.done", has_text="Delivered").wait_for()
        shown = page.locator(".facts time").first
        expected = page.evaluate(
            "at => new Date(at).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' })",
            shown.get_attribute("datetime"),
        )
        assert expected == shown.inner_text()


NO_CHANGE = """() => new Promise(resolve => {
    const source = new EventSource("/live/changes");
    source.onmessage = event => {
        if (JSON.parse(event.data).events.length === 0) { source.close(); resolve(); }
    };
})"""


def test_a_change_before_the_first_live_update_is_shown(site: Site) -> None:
    """The connection for live updates is delayed until the job, which the page does not show yet, has ended.

    Another page gets the live updates about the job. Verified to fail when the page is not read again when its live
    updates begin.
    """
    with open_page(site.browser, site.url) as other, open_page(site.browser, site.url) as page:
        site.sign_in(other)
        other.goto("/jobs?ae-title=SPACED OUT")
        other.locator("#live-state[data-state=on]").wait_for()
        site.sign_in(page)
        delayed: list[Route] = []
        page.route("**/live/changes", lambda route: delayed.append(route))
        page.goto("/jobs?ae-title=SPACED OUT")
        shows(page, "No job matches")
        reclaimed = len(site.service.logged("instances_reclaimed"))
        study = site.send("SPACED OUT")
        site.service.wait_for("instances_reclaimed", times=reclaimed + 1)  # the job changes no more
        other.locator("tbody tr").wait_for()
        other.evaluate(NO_CHANGE)
        page.wait_for_function("true")  # lets playwright call the handler of the route
        delayed[0].continue_()
        page.locator("tbody tr").wait_for()
        page.unroute("**/live/changes")
        page.goto(f"/studies/{study}")
        shows(page, "succeeded")


def test_ages_are_right_although_the_clock_of_the_browser_is_wrong(site: Site) -> None:
    """Verified to fail when the page does not use the time of the server."""
    site.send("LUNG")
    with open_page(site.browser, site.url) as page:
        page.clock.install(time=datetime.now(timezone.utc) - timedelta(hours=5))
        site.sign_in(page)
        page.goto("/senders")
        ages = page.locator("time[data-time=ago]").all_inner_texts()
        assert ages
        assert [] == [age for age in ages if "hour" in age]


def test_a_faulted_job_is_retried(site: Site) -> None:
    """The overview leads to the job; its page shows the step that failed, and the retry succeeds."""
    site.send("BONE")
    with open_page(site.browser, site.url) as page:
        site.sign_in(page)
        page.get_by_role("link", name="Show these jobs").click()
        page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
        page.locator(".way li.bad").wait_for()
        page.get_by_role("button", name="Retry").click()
        page.locator("h1 .pill", has_text="succeeded").wait_for()
        shows(page, "job retried")
        page.goto("/events?kind=job_")
        shows(page, "token")  # the name of the operator


def test_a_changed_configuration_is_applied_and_the_quarantine_is_requeued(site: Site) -> None:
    """The instances have no AdmissionID, by which HEAD groups them. The corrected file makes jobs of them."""
    site.send("HEAD")
    path = site.service.configuration
    with open_page(site.browser, site.url) as page:
        site.sign_in(page)
        page.get_by_role("link", name="Open the quarantine").click()
        shows(page, "AdmissionID")
        path.write_text(path.read_text(encoding="utf-8").replace('"AdmissionID"', '"study"'), encoding="utf-8")
        page.goto("/configuration")
        page.get_by_role("button", name="Compare with the file").click()
        shows(page, "AE title HEAD: settings.group-by")
        page.locator("#apply").click()
        page.get_by_role("dialog").get_by_role("button", name="Continue").click()
        shows(page, "Applied as configuration")
        page.goto("/quarantine")
        page.get_by_label("Select all instances on this page").check()
        page.get_by_role("button", name="Requeue").click()
        shows(page, "The quarantine is empty")
        page.goto("/jobs?ae-title=HEAD")
        page.locator("tbody tr").first.wait_for()


def test_signing_out_ends_the_session(site: Site) -> None:
    """A wrong token is refused, and a page without a session leads to the page to sign in."""
    with open_page(site.browser, site.url) as page:
        page.goto("/jobs")
        page.wait_for_url(re.compile("/sign-in"))
        page.get_by_label("Token").fill("certainly-not-the-token")
        page.get_by_role("button", name="Sign in").click()
        shows(page, "This token is not valid.")
        page.get_by_label("Token").fill(OPERATOR)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{site.url}/jobs")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(re.compile("/sign-in"))
        page.goto("/")
        page.wait_for_url(re.compile("/sign-in"))


def test_a_viewer_sees_no_patient_data_and_changes_nothing(site: Site) -> None:
    study = site.send("LUNG", patient_id="PAT-HIDDEN")
    with open_page(site.browser, site.url) as page:
        site.sign_in(page, VIEWER)
        shows(page, "viewer")
        for path in (*PAGES, f"/studies/{study}"):
            page.goto(path)
            assert 0 == page.get_by_text("PAT-HIDDEN").count()
            assert 0 == page.locator("button[data-method]:not([data-url='/api/session'])").count()
        page.goto("/studies")
        page.get_by_role("searchbox").fill("PAT-HIDDEN")
        page.get_by_role("searchbox").press("Enter")
        shows(page, "Nothing found")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_serious_accessibility_problem(site: Site, size: Mapping[str, int], scheme: str) -> None:
    """axe examines each page, and no page is wider than the window."""
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    study = site.send("LUNG")
    problems: dict[str, Any] = {}
    with open_page(site.browser, site.url, size, color_scheme=scheme, bypass_csp=True) as page:
        page.goto("/sign-in")
        problems["/sign-in"] = _serious(axe.run(page).response)
        site.sign_in(page)
        page.goto("/jobs")
        job = page.locator('a[href^="/jobs/"]').first.get_attribute("href")
        for path in (*PAGES, str(job), f"/studies/{study}", "/nothing"):
            page.goto(path)
            page.wait_for_load_state()
            problems[path] = _serious(axe.run(page).response)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert size["width"] >= width, path
    assert {} == {path: found for path, found in problems.items() if found}


def _serious(response: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in response["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def test_names_from_the_network_are_text(site: Site) -> None:
    """A rejected calling AE title, a Patient ID and a description with markup appear as they were sent.

    Verified to fail when templates do not escape values.
    """
    study = site.send("LUNG", patient_id=MARKUP, description=MARKUP)
    now = SystemClock().now()
    rejected = Rejected(
        peer_address="10.0.0.7", calling_ae_title=HOSTILE, ae_title=HOSTILE, cause="called-ae-title", reason=HOSTILE,
        count=1, first_at=now, last_at=now,
    )  # fmt: skip
    ledger = Ledger(f"sqlite:///{site.service.configuration.parent / 'data' / 'ledger.sqlite'}")
    with ledger.write() as transaction:
        senders.add_rejections(transaction, [rejected])
    ledger.close()
    with open_page(site.browser, site.url) as page:
        site.sign_in(page)
        page.goto("/senders")
        shows(page, HOSTILE)
        assert 0 == page.locator("main b").count()
        for path in ("/studies", f"/studies/{study}"):
            page.goto(path)
            shows(page, MARKUP)
            assert 0 == page.locator("main img").count()


def test_the_keyboard_reaches_the_content_and_the_theme_is_kept(site: Site) -> None:
    with open_page(site.browser, site.url, color_scheme="light") as page:
        site.sign_in(page)
        page.keyboard.press("Tab")
        assert "Skip to the content" == page.evaluate("document.activeElement.textContent")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Switch between light and dark").click()
        page.goto("/jobs")
        assert "dark" == page.evaluate("document.documentElement.dataset.theme")


def test_open_dashboards_do_not_delay_the_stop_of_the_service(site: Site) -> None:
    """The streams end at once. Verified to fail when the server does not end them: then the stop takes 3 s longer.

    This is the last test of the module: the service is stopped.
    """
    with open_page(site.browser, site.url) as page:
        site.sign_in(page)
        page.locator('#live-state[data-state="on"]').wait_for()
        failed_requests = len(site.service.logged("http_request_failed"))
        started = time.monotonic()
        assert 0 == site.service.stop()
        seconds = time.monotonic() - started
        page.locator('#live-state[data-state="off"]').wait_for()
    assert failed_requests == len(site.service.logged("http_request_failed"))
    assert site.service.logged("host_stopped")
    assert seconds < 30


def test_the_page_of_files_is_complete() -> None:
    """Each static file is used by a template or another static file."""
    folder = Path(__file__).parents[2] / "core/src/dicom_adapter/web/pages"
    sources = "".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*/*")) if file.suffix != ".pyc")
    assert [] == [file.name for file in (folder / "static").iterdir() if file.name not in sources]
