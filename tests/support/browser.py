"""Chromium for tests of the dashboard: one browser, with pages that fail a test if they report an error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from support.requirements import is_required, required

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP: Mapping[str, int] = {"width": 1280, "height": 820}
PHONE: Mapping[str, int] = {"width": 390, "height": 800}
ARGUMENTS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
)
PATIENCE_MS = 60_000  # time limit of each step, for a busy machine
ZONE = "Asia/Kolkata"  # a zone that is no whole hour away from UTC


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the Chromium of the system. Skip the test without it or without playwright, unless it is required."""
    program = required(shutil.which("chromium"), "chromium", "Chromium is not installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        if is_required("chromium"):
            raise
        pytest.skip("playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Browser, base_url: str, size: Mapping[str, int] = DESKTOP, **options: Any) -> Iterator[Page]:
    """Open a page in a new session.

    At the end, no script may have failed or opened a dialog, the policy may have blocked nothing, and nothing may have
    been loaded from another address than `base_url`.
    """
    context = browser.new_context(
        base_url=base_url, viewport=dict(size), timezone_id=ZONE, locale="en-GB", reduced_motion="reduce", **options
    )
    context.set_default_timeout(PATIENCE_MS)
    errors: list[str] = []
    page = context.new_page()
    page.on("request", lambda request: None if request.url.startswith(f"{base_url}/") else errors.append(request.url))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if _is_violation(message) else None)
    try:
        yield page
        assert [] == errors
    finally:
        context.close()


def _is_violation(message: Any) -> bool:
    return message.type == "error" and "Content Security Policy" in message.text
