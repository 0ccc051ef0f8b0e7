"""The file with the state of one notification: a message that waits is not lost when the service stops."""

from __future__ import annotations

import json
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from attrs import Factory, asdict, define

from dicom_adapter.api.local_disk import sync_folder
from dicom_adapter.api.notifier import Notice, NoticeKind
from dicom_adapter.host.notifications.pending import Key, Pending, PendingNotice, key_of

log = structlog.get_logger("dicom_adapter.host")


@define
class NotificationState:
    """Everything that is kept over a restart."""

    read_up_to: int  # number of the last event of the ledger that was read
    last_sent: datetime | None = None  # UTC
    number: int = 1  # of the next message
    series: str = Factory(lambda: secrets.token_hex(4))  # makes the ids of messages unique
    pending: Pending = Factory(Pending)

    @property
    def notification_id(self) -> str:
        """The id of the next message."""
        return f"{self.series}-{self.number}"


class StateFile:
    """The file of one table [notifications.<name>]."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name.encode().hex()}.json"
        self._name = name

    def load(self) -> NotificationState | None:
        """Return the state; None if there is no file, or if it cannot be used, which is logged."""
        try:
            return _from_json(json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as failure:
            log.warning("notification_state_lost", notification=self._name, error=type(failure).__name__)
            return None

    def save(self, state: NotificationState) -> None:
        """Replace the file. After a power loss, there is the old or the new file. Raises OSError."""
        self._path.parent.mkdir(exist_ok=True)  # without parents: the disk of the data folder may not be mounted
        temporary = self._path.with_suffix(".new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(_to_json(state), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        sync_folder(self._path.parent)


def _to_json(state: NotificationState) -> dict[str, Any]:
    return {
        "readUpTo": state.read_up_to,
        "lastSent": None if state.last_sent is None else state.last_sent.isoformat(),
        "number": state.number,
        "series": state.series,
        "pending": [
            {**asdict(one.notice, value_serializer=_plain), "since": one.since.isoformat()}
            for one in state.pending.notices.values()
        ],
        "reported": [[kind.value, ae_title, subject] for kind, ae_title, subject in state.pending.reported],
    }


def _plain(_instance: Any, _field: Any, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, NoticeKind) else value


def _from_json(values: dict[str, Any]) -> NotificationState:
    waiting = [PendingNotice(_notice(one), datetime.fromisoformat(one["since"])) for one in values["pending"]]
    reported: dict[Key, None] = {(NoticeKind(kind), str(name), str(of)): None for kind, name, of in values["reported"]}
    last_sent = values["lastSent"]
    return NotificationState(
        read_up_to=int(values["readUpTo"]),
        last_sent=None if last_sent is None else datetime.fromisoformat(last_sent),
        number=int(values["number"]),
        series=str(values["series"]),
        pending=Pending(notices={key_of(one.notice): one for one in waiting}, reported=reported),
    )


def _notice(values: dict[str, Any]) -> Notice:
    return Notice(
        kind=NoticeKind(values["kind"]),
        ae_title=values["ae_title"],
        subject=values["subject"],
        text=values["text"],
        count=values["count"],
        first_at=datetime.fromisoformat(values["first_at"]),
        last_at=datetime.fromisoformat(values["last_at"]),
        is_over=values["is_over"],
        job_ids=tuple(values["job_ids"]),
    )
