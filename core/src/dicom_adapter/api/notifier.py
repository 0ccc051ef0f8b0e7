"""`Notifier`: a way to notify people of events that need them, such as e-mail. Values without patient data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import ClassVar, Generic, TypeVar

from attrs import frozen

from dicom_adapter.api.declare import set_settings_type

SettingsT = TypeVar("SettingsT")


class NoticeKind(str, Enum):
    """The kind of an event that may need a person."""

    JOB_FAULTED = "job-faulted"  # a job was given up: an operator retries or cancels it
    JOB_FAILED = "job-failed"  # the platform has run a job without success
    DELIVERY_FAILED = "delivery-failed"  # results could not be delivered to a destination
    QUARANTINED = "quarantined"  # an instance or a result was quarantined
    JOB_INCOMPLETE = "job-incomplete"  # a job was submitted although instances may be missing
    AE_TITLE = "ae-title"  # an AE title is stopped, full, or processes nothing
    STORAGE = "storage"  # there is too little free space, or the storage or the ledger fails
    CERTIFICATE = "certificate"  # a certificate expires within 30 days, or has expired
    PLATFORM = "platform"  # the platform of a submitter, or a destination, is down
    PROCESS = "process"  # a process of the service died, or does not work
    PART = "part"  # another part of the service does not work, or needs attention
    SENDER_REJECTED = "sender-rejected"  # a sender is rejected for more than an hour
    SENDER_SILENT = "sender-silent"  # an expected sender has sent nothing for too long
    TEST = "test"  # an operator tests the notification


@frozen(kw_only=True)
class Notice:
    """Events of one kind about one subject. All texts are without patient data and without UIDs."""

    kind: NoticeKind
    ae_title: str  # the called AE title; "" if the events concern the whole service
    subject: str  # what the events are about, such as "submitter lung-ai" or "storage"
    text: str  # sentence about the last event, for people; without a full stop
    count: int  # number of events
    first_at: datetime  # UTC
    last_at: datetime  # UTC
    is_over: bool = False  # the condition has ended, for example the platform is available again
    job_ids: tuple[str, ...] = ()  # the first jobs that the events are about, at most five


@frozen(kw_only=True)
class Notification:
    """One message to people."""

    notification_id: str  # the same for each attempt to send this message, so that a repetition can be recognized
    created_at: datetime  # time in UTC of this attempt
    source: str  # name of the machine on which the service runs
    title: str  # one line
    text: str  # several lines: a line for each notice
    notices: Sequence[Notice]


@frozen(kw_only=True)
class NotifierContext:
    """Information from the core for each notifier, besides its settings."""

    name: str  # name of the [notifications.<name>] table


class Notifier(ABC, Generic[SettingsT]):
    """Base class of all notifiers.

    The core decides what is sent and when: it selects and merges events, limits the number of messages, and
    repeats failed attempts. A notifier sends one message.

    Life cycle: constructor (without side effects), then `send` from one thread, then `close`.
    """

    name: ClassVar[str]  # value of `type` in a [notifications.<name>] table that selects this class
    settings_type: ClassVar[type]  # settings class, from the class argument: `class Mine(Notifier[MySettings])`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        set_settings_type(cls, Notifier)

    def __init__(self, settings: SettingsT, context: NotifierContext) -> None:
        self.settings = settings
        self.context = context

    @abstractmethod
    def send(self, notification: Notification) -> None:
        """Send one message within 60 seconds, or raise Retriable or Permanent.

        After each failure the core tries again, with pauses of up to ten minutes, and `status` shows the message of the
        error. A permanent failure, such as a wrong password, is shown at once; other failures after the third attempt.
        """

    def close(self) -> None:
        """Release all resources."""
        return
