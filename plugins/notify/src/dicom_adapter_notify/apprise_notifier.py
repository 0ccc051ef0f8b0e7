"""The notifier `apprise`: the services that the library apprise supports, such as chat systems and pagers."""

from __future__ import annotations

import logging
from typing import Any

from attrs import frozen

from dicom_adapter import Notification, Notifier, NotifierContext, Refused, Retriable, Secret, not_empty, setting

EXTRA = "dicom-adapter-notify[apprise]"


@frozen(kw_only=True)
class AppriseSettings:
    """The settings of the notifier `apprise`."""

    urls: tuple[Secret, ...] = setting(
        validator=not_empty,
        help=(
            "URLs of services as [apprise](https://github.com/caronc/apprise/wiki) defines them. They contain "
            "passwords, so each is a secret."
        ),
    )


class AppriseNotifier(Notifier[AppriseSettings]):
    """Sends messages through the library apprise."""

    name = "apprise"

    def __init__(self, settings: AppriseSettings, context: NotifierContext) -> None:
        super().__init__(settings, context)
        self._services = _services(settings)

    def send(self, notification: Notification) -> None:
        if not self._services.notify(title=notification.title, body=notification.text, body_format="text"):
            raise Retriable("apprise could not deliver the message to each of its urls")


def _services(settings: AppriseSettings) -> Any:
    try:
        import apprise
    except ImportError:
        raise Refused(f"it needs the library apprise: pip install '{EXTRA}'") from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its messages contain the URLs, which are secrets
    services = apprise.Apprise()
    for number, url in enumerate(settings.urls, start=1):
        if not services.add(str(url)):
            raise Refused(f"urls: entry {number} is not a URL of a service that apprise knows")
    return services
