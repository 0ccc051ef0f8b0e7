"""The notifier `apprise`, whose service posts to a real web server."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from dicom_adapter import Notification, NotifierContext, Refused, Retriable, Secret
from dicom_adapter_notify.apprise_notifier import AppriseNotifier, AppriseSettings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # apprise imports modules that Python removes


def notifier(*urls: str) -> AppriseNotifier:
    return AppriseNotifier(AppriseSettings(urls=tuple(map(Secret, urls))), NotifierContext(name="oncall"))


def test_title_and_text_reach_the_service(webhook: Any, notification: Notification) -> None:
    webhook.status = 200
    notifier(webhook.url.replace("http:", "json:")).send(notification)
    ((_, _, body),) = webhook.requests
    assert (notification.title, notification.text) == (json.loads(body)["title"], json.loads(body)["message"])


def test_a_service_that_fails_is_retried_and_its_url_is_not_logged(
    webhook: Any, notification: Notification, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.status = 500
    with pytest.raises(Retriable, match="apprise could not deliver"):
        notifier(webhook.url.replace("http://", "json://user:t0ken@")).send(notification)
    assert "t0ken" not in caplog.text


def test_an_unknown_service_is_refused_without_its_url() -> None:
    with pytest.raises(Refused, match="urls: entry 2 is not a URL of a service") as raised:
        notifier("json://a.example", "nonsense://t0ken")
    assert "t0ken" not in str(raised.value)


def test_the_message_for_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(Refused, match=r"pip install 'dicom-adapter-notify\[apprise\]'"):
        notifier("json://a.example")
