"""The pictures of the dashboard in the documentation, from a real service with synthetic studies.

`make pictures` writes them to docs/_static/dashboard. In other runs, the test writes them to a temporary folder. The
test fails if a page does not show what its picture shows.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dicom_adapter.dicom import synthetic
from dicom_adapter.ledger import Ledger, senders
from dicom_adapter.ledger.senders import Sender
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.testing.fixtures import LaunchService
from dicom_adapter.testing.service import Service
from support.browser import DESKTOP, PHONE, chromium, open_page
from support.pages import DOCS, ROOT, read
from support.png import with_palette

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PICTURES = DOCS / "_static" / "dashboard"
PAGE = DOCS / "how-to" / "dashboard.md"
FOR_DOCUMENTATION = "DICOM_ADAPTER_WRITE_PICTURES" in os.environ  # replace the pictures of the documentation
MAX_BYTES = 80_000  # size of a picture
TOKEN = "synthetic-0123456789"
LINK_OF_JOB = re.compile("^[0-9a-f]{8}$")
CHECKBOX_OF_INSTANCE = re.compile("^Select [0-9]+$")
CONFIGURATION = """
default-submitter = "gpu"

[storage]
path = "data"
watermark-percent = 100
reserve = 0

[http]
port = 0
[http.tokens.anna]
role = "operator"
secret = { file = "../anna.token" }

[submitters.gpu]
type = "fake"
outcome = "succeeds"
secondary-capture = true
status-every = 1
fail = [{ call = "start", times = 0, kind = "permanent", pipeline = "bone-age" }]

[submitters.pacs]
type = "folder"
path = "pacs"

[ae-titles.LUNG]
settings = { group-by = "study", timeout = 5, pipeline-nodules = "lung-nodules" }
results = { to = ["pacs"] }

[ae-titles.CHEST]
settings = { group-by = "study", timeout = 600, pipeline-triage = "chest-triage" }

[ae-titles.BONE]
settings = { group-by = "study", timeout = 5, pipeline-age = "bone-age" }

[ae-titles.HEAD]
settings = { group-by = "AccessionNumber", timeout = 5, pipeline-bleed = "head-bleed" }
"""


def send(service: Service, sender: str, ae_title: str, modality: str = "CT", **more: Any) -> str:
    """Send a synthetic study of 6 instances, and return its UID."""
    study = synthetic.make_study(modality=modality, series=2, instances=3, rows=16, columns=16, **more)
    assert all(result.ok for result in service.send(*study, ae_title=ae_title, calling_ae_title=sender))
    return str(study[0].StudyInstanceUID)


def add_silent_sender(service: Service) -> None:
    """Add a sender that has sent nothing for three days."""
    now = SystemClock().now()
    silent = Sender(
        calling_ae_title="MR2", ae_title="HEAD", peer_address="127.0.0.1", first_at=now - timedelta(days=30),
        last_at=now - timedelta(days=3), associations=412, instances=98_300, refused=0,
    )  # fmt: skip
    ledger = Ledger(f"sqlite:///{service.configuration.parent / 'data' / 'ledger.sqlite'}")
    with ledger.write() as transaction:
        senders.add_associations(transaction, [silent])
    ledger.close()


def fill(service: Service) -> str:
    """Send studies, and wait until their jobs have ended. Return the UID of a study whose result is delivered."""
    add_silent_sender(service)
    study = send(service, "CT1", "LUNG", patient_id="PID-4711", StudyDescription="Chest")
    for number in range(4):
        send(service, "CT2", "LUNG", patient_id=f"PID-{number}")
    for number in range(3):
        send(service, "DX1", "CHEST", "DX", patient_id=f"PID-1{number}")
    send(service, "DX1", "BONE", "DX", patient_id="PID-20")
    send(service, "MR1", "HEAD", "MR", patient_id="PID-30")
    [refused] = service.send(synthetic.make_instance(rows=2, columns=2), ae_title="LUNGS", calling_ae_title="CT3")
    assert not refused.ok
    service.wait_for("job_faulted", ae_title="BONE")
    service.wait_for("instance_quarantined", ae_title="HEAD", times=6)
    service.wait_for("job_succeeded", ae_title="LUNG", times=5)
    return study


def save(page: Page, path: Path) -> None:
    """Save what the window shows; for the documentation as a small file, which takes some seconds."""
    png = page.screenshot()
    path.write_bytes(with_palette(png) if FOR_DOCUMENTATION else png)


def shows(page: Page, text: str) -> None:
    page.get_by_text(text).first.wait_for()


def take_desktop(page: Page, study: str, folder: Path) -> None:
    page.goto("/sign-in")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    shows(page, "due in")
    shows(page, "Open the quarantine")
    if FOR_DOCUMENTATION:  # the chart shows the last full minute
        page.locator('svg.chart[aria-label^="Instances"]:not([aria-label$="at most 0"])').wait_for(timeout=90_000)
    save(page, folder / "overview.png")
    page.goto(f"/studies/{study}")
    shows(page, "to pacs")
    save(page, folder / "study.png")
    page.goto("/jobs?state=faulted")
    page.get_by_role("link", name=LINK_OF_JOB).first.click()
    page.get_by_role("button", name="Retry").wait_for()
    save(page, folder / "job.png")
    page.goto("/senders")
    for state in ("silent", "never accepted"):
        page.locator(".pill", has_text=state).first.wait_for()
    save(page, folder / "senders.png")


def take_phone(page: Page, folder: Path) -> None:
    page.goto("/sign-in?next=/quarantine")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    for number in (-2, -1):
        page.get_by_role("checkbox", name=CHECKBOX_OF_INSTANCE).nth(number).check()
    page.get_by_role("button", name="Discard").scroll_into_view_if_needed()
    save(page, folder / "phone.png")


def take_pictures(browser: Browser, url: str, study: str, folder: Path) -> None:
    with open_page(browser, url, DESKTOP, color_scheme="light") as page:
        take_desktop(page, study, folder)
    with open_page(browser, url, PHONE, color_scheme="light") as page:
        take_phone(page, folder)


@pytest.mark.slow
@pytest.mark.chromium
def test_each_picture_shows_what_the_page_describes(launch_service: LaunchService, tmp_path: Path) -> None:
    """The pictures have the same names as those of the documentation."""
    folder = PICTURES if FOR_DOCUMENTATION else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        (tmp_path / "service" / "pacs").mkdir(parents=True)
        (tmp_path / "anna.token").write_text(TOKEN, encoding="utf-8")
        service = launch_service(CONFIGURATION)
        port = service.wait_for("http_listening")["port"]
        study = fill(service)
        take_pictures(browser, f"http://127.0.0.1:{port}", study, folder)
    assert {path.name for path in PICTURES.iterdir()} == {path.name for path in folder.glob("*.png")}


def test_each_picture_is_small_and_shown() -> None:
    names = {path.name for path in PICTURES.iterdir()}
    assert names == set(re.findall(r"!\[[^\]]+\]\(\.\./_static/dashboard/([^)]+)\)", read(PAGE)))
    assert set(re.findall(r"\(docs/_static/dashboard/([^)]+)\)", read(ROOT / "README.md"))) <= names
    assert [] == [path.name for path in PICTURES.iterdir() if path.stat().st_size > MAX_BYTES]
