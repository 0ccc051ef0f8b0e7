"""Whatever is called of a plugin is measured: how long it takes and what it comes to. What is slow is told by name."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import structlog
from attrs import define, frozen

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.runtime.parts import Part

log = structlog.get_logger("dicom_adapter.calls")

# Seconds beyond which a call is slow: what waits for it is noticed by somebody then. Others: OTHER_SLOW_SECONDS.
SLOW_SECONDS: Mapping[str, float] = {
    **dict.fromkeys(
        ("handle_instance", "timer", "job_changed", "free_space", "request", "waiting"), 1.0
    ),  # a lane waits
    **dict.fromkeys(("create_job", "add_metadata", "start", "status", "cancel"), 10.0),  # a platform answers
    "upload": 60.0,  # of an instance that may be large
}
OTHER_SLOW_SECONDS = 5.0
NEVER_SLOW_SECONDS = min(OTHER_SLOW_SECONDS, *SLOW_SECONDS.values())
REMEMBERED_SECONDS = 300.0  # a slow call shows in `status` for so long
TELL_EVERY_SECONDS = 60.0  # one kind of slow call, however often it happens
KEPT = 1000  # events from before it is known how to log

T = TypeVar("T")
Key = tuple[Part, str, str]  # part, plugin, hook


@define
class _Slow:
    """Slow calls of one kind."""

    times: int = 0  # of late
    longest: float = 0.0
    last: float = 0.0
    untold: int = 0
    told_at: float | None = None


class Calls:
    """What one process calls of plugins. Used from any thread."""

    def __init__(self, *, trace: bool = False, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`trace`: log every call."""
        self.trace = trace
        self.monotonic = monotonic
        self._slow: dict[Key, _Slow] = {}
        self._threads: Counter[str] = Counter()
        self._kept: deque[Callable[[], object]] | None = deque(maxlen=KEPT)
        self._lock = threading.Lock()  # guards all three

    def of(self, plugin: str, part: Part) -> Called:
        """For the calls of a plugin that a part of the process makes."""
        return Called(self, plugin, part)

    def tell(self) -> None:
        """Logging is set up: log from now on, beginning with what was kept."""
        with self._lock:
            kept, self._kept = self._kept or (), None
        for tell in kept:
            tell()

    def note(self, called: Called, hook: str, seconds: float, outcome: str, threads: int) -> None:
        """A call has ended, with so many threads more than at its beginning."""
        if threads:
            with self._lock:
                self._threads[called.plugin] += threads
        fields = {"plugin": called.plugin, "hook": hook, "part": str(called.part), "seconds": round(seconds, 6)}
        if self.trace:
            self._log(lambda: log.info("hook_called", **fields, outcome=outcome))
        limit = slow_seconds(hook)
        if seconds > limit:
            times = self._note_slow((called.part, called.plugin, hook), seconds)
            if times:
                self._log(lambda: log.warning("hook_slow", **fields, limit=limit, times=times))

    def _note_slow(self, key: Key, seconds: float) -> int:
        """How many are to be told of now."""
        now = self.monotonic()
        with self._lock:
            slow = self._slow.setdefault(key, _Slow())
            if now - slow.last > REMEMBERED_SECONDS:
                slow.times, slow.longest = 0, 0.0
            slow.times, slow.longest, slow.last = slow.times + 1, max(slow.longest, seconds), now
            slow.untold += 1
            if slow.told_at is not None and now - slow.told_at < TELL_EVERY_SECONDS:
                return 0
            slow.told_at, times, slow.untold = now, slow.untold, 0
            return times

    def left_threads(self) -> list[tuple[str, int]]:
        """Plugins in whose calls threads have been left behind, and about how many; the most first."""
        with self._lock:
            return [(plugin, count) for plugin, count in self._threads.most_common() if count > 0]

    def slow(self) -> dict[Part, str]:
        """What was slow of late, in words, by part."""
        earliest = self.monotonic() - REMEMBERED_SECONDS
        with self._lock:
            recent = [(key, slow.times, slow.longest) for key, slow in self._slow.items() if slow.last >= earliest]
        found: dict[Part, list[str]] = {}
        for (part, plugin, hook), times, longest in recent:
            often = "once" if times == 1 else f"{times} times"
            text = f"{hook} of {plugin} took up to {longest:.1f} s, more than {slow_seconds(hook):g} s, {often} of late"
            found.setdefault(part, []).append(text)
        return {part: "; ".join(texts) for part, texts in found.items()}

    def _log(self, tell: Callable[[], object]) -> None:
        with self._lock:
            if self._kept is not None:
                self._kept.append(tell)
                return
        tell()


@frozen
class Called:
    """A plugin, as one part of the process calls it."""

    calls: Calls
    plugin: str
    part: Part

    def __call__(self, hook: str, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call it, measured; whatever it returns or raises is the caller's."""
        calls = self.calls
        threads, began = threading.active_count(), calls.monotonic()
        try:
            result = function(*arguments, **named)
        except BaseException as failure:
            seconds, outcome = calls.monotonic() - began, describe_failure(failure)
            calls.note(self, hook, seconds, outcome, threading.active_count() - threads)
            raise
        seconds, threads = calls.monotonic() - began, threading.active_count() - threads
        if threads or seconds > NEVER_SLOW_SECONDS or calls.trace:  # for most of millions of calls none of it is true
            calls.note(self, hook, seconds, "returned", threads)
        return result


def slow_seconds(hook: str) -> float:
    """Seconds beyond which a call of this hook, or method, is slow."""
    return SLOW_SECONDS.get(hook, OTHER_SLOW_SECONDS)


@frozen
class Maker(Generic[T]):
    """Makes objects of a plugin's class, measured from their constructors on."""

    cls: type[T]
    called: Called
    methods: Sequence[str]
    callbacks: Sequence[str] = ()

    def __call__(self, *arguments: Any) -> T:
        """One more."""
        return measure(self.called("__init__", self.cls, *arguments), self.called, self.methods, self.callbacks)


def measure(made: T, called: Called, methods: Sequence[str], callbacks: Sequence[str] = ()) -> T:
    """Have an object's `methods` measured, and what its `callbacks` methods are given to call later.

    The object's own attributes go before those of its class, which stays what it is: a plugin may rely on `type(self)`.
    """
    for name in methods:
        _set(made, name, _measured_method(made, name, called))
    for name in callbacks:
        _set(made, name, _with_measured_callback(made, name, called))
    return made


def _set(made: object, name: str, method: Callable[..., Any]) -> None:
    if name not in vars(made):  # else it has put something there itself
        object.__setattr__(made, name, method)  # frozen attrs classes refuse the usual way


def _measured_method(made: object, name: str, called: Called) -> Callable[..., Any]:
    """The method is looked up when it is called: tests replace those of a class that is in use."""

    def call(*arguments: Any, **named: Any) -> Any:
        return called(name, getattr(type(made), name), made, *arguments, **named)

    return call


def _with_measured_callback(made: object, name: str, called: Called) -> Callable[..., Any]:
    def call(when: Any, callback: Callable[[], Any]) -> Any:
        return getattr(type(made), name)(made, when, functools.partial(called, "timer", callback))

    return call
