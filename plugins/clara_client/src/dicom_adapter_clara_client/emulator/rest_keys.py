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
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from threading import RLock

from dicom_adapter_clara_client.emulator.rest_problems import IN_PROGRESS, KEY_MISSING, KEY_REUSED, ProblemAnswer
from dicom_adapter_clara_client.emulator.rest_reply import Reply
from dicom_adapter_clara_client.emulator.store import PlatformStore
from dicom_adapter_clara_client.emulator.values import KeyedAnswer

KEPT = timedelta(hours=24)
QUOTED = re.compile(r'"([ !#-\[\]-~]{1,255})"')  # a structured field's text (RFC 8941), without escapes


class IdempotencyKeys:
    """The keys of the last 24 hours, kept with the platform's state. Used from many threads.

    An emulator that is killed between its work and `save_answer` has done the work and does not know the key.
    """

    def __init__(
        self, store: PlatformStore, lock: RLock, known: Iterable[KeyedAnswer], clock: Callable[[], datetime]
    ) -> None:
        """`known`: oldest first."""
        self._store = store
        self._lock = lock
        self._clock = clock
        self._answers = {answer.key: answer for answer in known}  # oldest first
        self._under_way: set[str] = set()

    def answer(self, key: str, fingerprint: str, act: Callable[[], Reply]) -> Reply:
        """What `act` answers, now or when the key was first used."""
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
                self._under_way.remove(key)
        return reply

    def _begin(self, key: str, fingerprint: str) -> KeyedAnswer | None:
        with self._lock:
            self._forget()
            if key in self._under_way:
                raise ProblemAnswer(IN_PROGRESS, headers={"Retry-After": "1"})
            known = self._answers.get(key)
            if known is None:
                self._under_way.add(key)
            elif known.fingerprint != fingerprint:
                raise ProblemAnswer(KEY_REUSED, "use a new key for another request")
            return known

    def _keep(self, answer: KeyedAnswer) -> None:
        with self._lock:
            self._store.save_answer(answer)
            self._answers[answer.key] = answer

    def _forget(self) -> None:
        """Requests may end in another order than they began: what is old behind something younger goes later."""
        oldest = self._clock() - KEPT
        for key in list(self._answers):
            if self._answers[key].since > oldest:
                return
            self._store.delete_answer(key)
            del self._answers[key]


def unquoted(header: str | None) -> str:
    """The key in a header. Raises Problem when there is none."""
    found = QUOTED.fullmatch(header.strip()) if header else None
    if found is None:
        raise ProblemAnswer(
            KEY_MISSING, 'send a new text in double quotes, such as "8e03978e-40d5-43dd-bc93-6894a57f9324"'
        )
    return found[1]
