"""Notifications: messages to people about events that need them, for each table [notifications.<name>].

`event_notices` and `conditions` find what has happened. `pending` merges it, `schedule` decides when it is sent,
`state_file` keeps it over restarts, and `sending` sends it.
"""

from dicom_adapter.host.notifications.notifications import Notifications

__all__ = ["Notifications"]
