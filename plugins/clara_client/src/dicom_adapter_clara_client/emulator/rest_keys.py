"""Idempotency keys, as in draft-ietf-httpapi-idempotency-key-header.

    key is      its first request     body, method, path    response
    missing     -                     -                     400
    new         -                     -                     that of the request
    known       is in progress        any                   409
    known       succeeded             the same              that of the first request
    known       succeeded             different             422

A refused request changed nothing, so its key can be used again: the repeated request succeeds after an operator has
corrected the cause of the refusal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from threading import RLock

from dicom_adapter_clara_client.emulator.rest_problems import IN_PROGRESS, KEY_MISSING, KEY_REUSED, ProblemAnswer
from dicom_adapter_clara_client.emulator.rest_reply import Reply
from dicom_adapter_clara_client.emulator.store import PlatformStore
from dicom_adapter_clara_client.emulator.values import KeyedAnswer

KEPT = timedelta(hours=24)  # time for which a key is known
QUOTED = re.compile(r'"([ !#-\[\]-~]{1,255})"')  # a string of RFC 8941, without escapes


class IdempotencyKeys:
    """The keys of the last 24 hours, stored with the platform's state. Thread-safe.

    Known limitation: if the emulator is killed after a request has changed the platform's state, and before the
    response is saved with its key, a repeated request is executed again.
    """

    def __init__(
        self, store: PlatformStore, lock: RLock, known: Iterable[KeyedAnswer], clock: Callable[[], datetime]
    ) -> None:
        """Create the store of keys. `known`: the saved responses, oldest first."""
        self._store = store
        self._lock = lock
        self._clock = clock
        self._answers = {answer.key: answer for answer in known}  # in the order in which the requests ended
        self._in_progress: set[str] = set()

    def answer(self, key: str, fingerprint: str, act: Callable[[], Reply]) -> Reply:
        """Return the response of `act`, or the response of the first request with this key."""
        since = self._clock()
        known = self._begin(key, fingerprint)
        if known is not None:
            return Reply(status=known.status, body=known.body, headers=known.headers)
        try:
            reply = act()
            self._keep(
                KeyedAnswer(
                    key=key,
                    fingerprint=fingerprint,
                    since=since,
                    status=reply.status,
                    body=reply.body,
                    headers=reply.headers,
                )
            )
        finally:
            with self._lock:
                self._in_progress.remove(key)
        return reply

    def _begin(self, key: str, fingerprint: str) -> KeyedAnswer | None:
        with self._lock:
            self._expire()
            if key in self._in_progress:
                raise ProblemAnswer(IN_PROGRESS, headers={"Retry-After": "1"})
            known = self._answers.get(key)
            if known is None:
                self._in_progress.add(key)
            elif known.fingerprint != fingerprint:
                raise ProblemAnswer(KEY_REUSED, "use a new key for another request")
            return known

    def _keep(self, answer: KeyedAnswer) -> None:
        with self._lock:
            self._store.save_answer(answer)
            self._answers[answer.key] = answer

    def _expire(self) -> None:
        """Delete expired keys up to the first key that is not expired.

        Requests do not end in the order in which they began: an expired key behind a younger one is deleted by a later
        call.
        """
        limit = self._clock() - KEPT
        for key in list(self._answers):
            if self._answers[key].since > limit:
                return
            self._store.delete_answer(key)
            del self._answers[key]


def parse_key(header: str | None) -> str:
    """Return the key in a header. Raises ProblemAnswer if the key is missing or not a quoted text."""
    match = QUOTED.fullmatch(header.strip()) if header else None
    if match is None:
        raise ProblemAnswer(
            KEY_MISSING, 'send a new text in double quotes, such as "8e03978e-40d5-43dd-bc93-6894a57f9324"'
        )
    return match[1]
