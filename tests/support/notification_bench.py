"""An adapter with a virtual clock, and notifications whose notifier keeps the messages in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dicom_adapter import NoSettings, Notification, Notifier, Permanent, hookimpl
from dicom_adapter.config import Config
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.host.notifications import Notifications
from dicom_adapter.ledger import events
from dicom_adapter.ledger.events import Event
from dicom_adapter.runtime.watch import PartFinding
from dicom_adapter.testing import Adapter

AE_TITLES = """
[ae-titles.LUNG]
processor = "by-study"
settings = {pipeline-lung = "p1", required = "StudyDescription"}
[ae-titles.HEAD]
processor = "by-study"
settings = {pipeline-head = "p2"}
"""
QUICK = """
[notifications.oncall]
type = "kept"
gather = 0
pause = 0
"""


class KeptMessages(Notifier[NoSettings]):
    """Keeps messages, or fails."""

    name = "kept"
    messages: list[Notification] = []  # noqa: RUF012 - shared by all notifiers of a test; the fixture replaces it
    attempts: list[Notification] = []  # noqa: RUF012 - as above
    failure: Exception | None = None

    def send(self, notification: Notification) -> None:
        self.attempts.append(notification)
        if self.failure is not None:
            raise self.failure
        self.messages.append(notification)


class KeptMessagesPlugin:
    """Registers the notifier."""

    @hookimpl
    def dicom_adapter_notifiers(self) -> Iterable[type[Notifier[Any]]]:
        return [KeptMessages]


class NotificationBench:
    """An adapter with its notifications, whose steps run when the test calls `run`."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.notifications = self.start()

    def start(self) -> Notifications:
        """Start the notifications, as after a restart of the host."""
        self.notifications = Notifications(self.adapter.config, self.adapter._plugins, self.adapter.resources)
        self.run()
        return self.notifications

    def apply(self, config: Config) -> None:
        for close in self.notifications.apply(config).values():
            close()

    def run(self, after: float = 0.0) -> None:
        """Advance the clock, then run one step of each notification."""
        self.adapter.clock.advance(after)
        for work in self.notifications.parts().values():
            work.step()

    def record(self, event: str, ae_title: str = "", **detail: Any) -> None:
        """Write an event to the ledger."""
        self.record_all([self.event(event, ae_title, **detail)])

    def event(self, event: str, ae_title: str = "", **detail: Any) -> Event:
        return Event(at=self.adapter.clock.now(), event=event, ae_title=ae_title, detail=detail)

    def record_all(self, new: Iterable[Event]) -> None:
        with self.adapter.ledger.write() as transaction:
            events.record(transaction, new)

    def fault_job(self, ae_title: str = "LUNG") -> None:
        """Receive a study whose job is faulted."""
        self.adapter.platform.fail("create_job", Permanent("the platform says: Nobody^Norbert"))
        self.adapter.receive(make_instance(), ae_title=ae_title)
        self.adapter.advance(10)

    @property
    def messages(self) -> list[Notification]:
        return KeptMessages.messages

    @property
    def kinds(self) -> list[list[str]]:
        """The kinds in each message."""
        return [[notice.kind.value for notice in message.notices] for message in self.messages]

    def finding(self, name: str = "oncall") -> PartFinding:
        return next(found for part, found in self.notifications.findings().items() if part.name == name)
