"""Idempotency keys, as draft-ietf-httpapi-idempotency-key-header has them.

    key is      its first request     body, method, path    now
    missing     -                     -                     400
    new         -                     -                     the request is carried out
    known       is being answered     any                   409
    known       succeeded             the same              the first answer again
    known       succeeded             another               422

A refused request changed nothing, so its key is free again: what an operator has mended works at once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from attrs import frozen

from dicom_adapter_clara_client.emulator.rest_problems import IN_PROGRESS, KEY_MISSING, KEY_REUSED, Problem
from dicom_adapter_clara_client.emulator.rest_reply import Reply

KEPT = timedelta(hours=24)
QUOTED = re.compile(r'"([ !#-\[\]-~]{1,255})"')  # a structured field's text (RFC 8941), without escapes


@frozen
class _Entry:
    fingerprint: str
    since: datetime
    reply: Reply | None  # None: it is still being made


class Keys:
    """The keys of the last 24 hours. Used from many threads; nothing outlives the process."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}  # oldest first
        self._lock = threading.Lock()

    def answer(self, key: str, fingerprint: str, act: Callable[[], Reply]) -> Reply:
        """What `act` answers, now or when the key was first used."""
        known = self._begin(key, fingerprint)
        if known is not None:
            return known
        try:
            reply = act()
        except BaseException:
            self._end(key, None)
            raise
        self._end(key, reply)
        return reply

    def _begin(self, key: str, fingerprint: str) -> Reply | None:
        with self._lock:
            self._forget()
            entry = self._entries.get(key)
            if entry is None:
                self._entries[key] = _Entry(fingerprint, self._clock(), None)
                return None
        if entry.reply is None:
            raise Problem(IN_PROGRESS, headers={"Retry-After": "1"})
        if entry.fingerprint != fingerprint:
            raise Problem(KEY_REUSED, "use a new key for another request")
        return entry.reply

    def _end(self, key: str, reply: Reply | None) -> None:
        with self._lock:
            entry = self._entries.pop(key)
            if reply is not None:
                self._entries[key] = _Entry(entry.fingerprint, entry.since, reply)

    def _forget(self) -> None:
        """Requests may end in another order than they began: what is old behind something younger goes later."""
        oldest = self._clock() - KEPT
        for key in list(self._entries):
            if self._entries[key].since > oldest:
                return
            del self._entries[key]


def unquoted(header: str | None) -> str:
    """The key in a header. Raises Problem when there is none."""
    found = QUOTED.fullmatch(header.strip()) if header else None
    if found is None:
        raise Problem(KEY_MISSING, 'send a new text in double quotes, such as "8e03978e-40d5-43dd-bc93-6894a57f9324"')
    return found[1]
