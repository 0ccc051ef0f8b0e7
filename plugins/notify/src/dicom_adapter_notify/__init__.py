"""Notifiers: messages to people by webhook, by e-mail, and through the services of apprise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dicom_adapter import Notifier, hookimpl


@hookimpl
def dicom_adapter_notifiers() -> Iterable[type[Notifier[Any]]]:
    """Register the notifiers of this plugin."""
    # Each imports its libraries only when it sends: receivers and commands load this module, too.
    from dicom_adapter_notify.apprise_notifier import AppriseNotifier
    from dicom_adapter_notify.email_notifier import EmailNotifier
    from dicom_adapter_notify.webhook_notifier import WebhookNotifier

    return [WebhookNotifier, EmailNotifier, AppriseNotifier]
