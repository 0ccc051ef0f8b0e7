"""Measure every call of a plugin's code: log slow calls, and count leaked threads.

`CallStatistics` collects the figures of one process. A `MeasuredCaller` calls the code of one plugin. A
`MeasuredFactory` constructs objects of a plugin's class and returns a proxy that measures their methods.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import structlog
from attrs import define, frozen

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.runtime.parts import Part

__plumbing__ = True  # `describe_failure` omits the frames of this module: it only passes calls on to plugins

log = structlog.get_logger("dicom_adapter.calls")

# Seconds after which a call counts as slow, because the delay becomes noticeable. For other calls: OTHER_SLOW_SECONDS.
SLOW_SECONDS: Mapping[str, float] = {
    # a lane waits for these calls
    **dict.fromkeys(
        (
            "handle_instance",
            "association_changed",
            "end_wait",
            "timer",
            "job_changed",
            "free_space",
            "request",
            "waiting",
        ),
        1.0,
    ),
    # these calls wait for a platform, or for a mail server
    **dict.fromkeys(("create_job", "add_metadata", "start", "status", "cancel", "send"), 10.0),
    **dict.fromkeys(("upload", "attach"), 60.0),  # a file may be large
}
OTHER_SLOW_SECONDS = 5.0
MIN_SLOW_SECONDS = min(OTHER_SLOW_SECONDS, *SLOW_SECONDS.values())
REMEMBERED_SECONDS = 300.0  # `status` shows a slow call for this time
LOG_EVERY_SECONDS = 60.0  # at most one log line for each kind of slow call in this time
MAX_BUFFERED = 1000  # log lines that are kept until logging is configured

T = TypeVar("T")
CallKey = tuple[Part, str, str]  # part, plugin, hook


@define
class _SlowCalls:
    """Slow calls of one kind."""

    count: int = 0  # within REMEMBERED_SECONDS
    longest: float = 0.0  # seconds
    last: float = 0.0  # monotonic time
    unlogged: int = 0  # number of slow calls since the last log line
    logged_at: float | None = None  # monotonic time


class CallStatistics:
    """Statistics of all calls of plugins in one process. Thread-safe."""

    def __init__(self, *, trace: bool = False, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Collect statistics. With `trace`, log every call."""
        self.trace = trace
        self.monotonic = monotonic
        self._slow: dict[CallKey, _SlowCalls] = {}
        self._threads: Counter[str] = Counter()
        self._buffered: deque[Callable[[], object]] | None = deque(maxlen=MAX_BUFFERED)
        self._lock = threading.Lock()  # guards `_slow`, `_threads` and `_buffered`

    def caller(self, plugin: str, part: Part) -> MeasuredCaller:
        """Return a caller of the code of `plugin` on behalf of `part`."""
        return MeasuredCaller(self, plugin, part)

    def flush_log(self) -> None:
        """Log the buffered lines, and log immediately from now on. Call this method when logging is configured."""
        with self._lock:
            buffered, self._buffered = self._buffered or (), None
        for write_line in buffered:
            write_line()

    def record(self, caller: MeasuredCaller, hook: str, seconds: float, outcome: str, threads: int) -> None:
        """Record a call that has ended. `threads` is the change in the number of threads during the call."""
        if threads:
            with self._lock:
                self._threads[caller.plugin] += threads
        fields = {"plugin": caller.plugin, "hook": hook, "part": str(caller.part), "seconds": round(seconds, 6)}
        if self.trace:
            self._log(lambda: log.info("hook_called", **fields, outcome=outcome))
        limit = slow_seconds(hook)
        if seconds > limit:
            times = self._record_slow((caller.part, caller.plugin, hook), seconds)
            if times:
                self._log(lambda: log.warning("hook_slow", **fields, limit=limit, times=times))

    def _record_slow(self, key: CallKey, seconds: float) -> int:
        """Count a slow call. Return the number of slow calls that a log line must report now; 0: no line is due."""
        now = self.monotonic()
        with self._lock:
            slow = self._slow.setdefault(key, _SlowCalls())
            if now - slow.last > REMEMBERED_SECONDS:
                slow.count, slow.longest = 0, 0.0
            slow.count, slow.longest, slow.last = slow.count + 1, max(slow.longest, seconds), now
            slow.unlogged += 1
            if slow.logged_at is not None and now - slow.logged_at < LOG_EVERY_SECONDS:
                return 0
            slow.logged_at, times, slow.unlogged = now, slow.unlogged, 0
            return times

    def leaked_threads(self) -> list[tuple[str, int]]:
        """Return the plugins whose threads still run after their calls, with approximate numbers, highest first."""
        with self._lock:
            return [(plugin, count) for plugin, count in self._threads.most_common() if count > 0]

    def slow_calls(self) -> dict[Part, str]:
        """Return a description of the recent slow calls for each part that made any."""
        earliest = self.monotonic() - REMEMBERED_SECONDS
        with self._lock:
            recent = [(key, slow.count, slow.longest) for key, slow in self._slow.items() if slow.last >= earliest]
        found: dict[Part, list[str]] = {}
        for (part, plugin, hook), count, longest in recent:
            times = "once" if count == 1 else f"{count} times"
            limit = slow_seconds(hook)
            text = f"{hook} of {plugin} took up to {longest:.1f} s, more than {limit:g} s, {times} recently"
            found.setdefault(part, []).append(text)
        return {part: "; ".join(texts) for part, texts in found.items()}

    def _log(self, write_line: Callable[[], object]) -> None:
        with self._lock:
            if self._buffered is not None:
                self._buffered.append(write_line)
                return
        write_line()


@frozen
class MeasuredCaller:
    """Caller of the code of one plugin, on behalf of one part of the process."""

    statistics: CallStatistics
    plugin: str
    part: Part

    def __call__(self, hook: str, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call `function` and record the call as `hook`. The result and the exceptions are those of `function`."""
        statistics = self.statistics
        monotonic, active_count = statistics.monotonic, threading.active_count  # looked up once: this is a hot path
        threads_before, started = active_count(), monotonic()
        try:
            result = function(*arguments, **named)
        except BaseException as failure:
            seconds, outcome = monotonic() - started, describe_failure(failure)
            statistics.record(self, hook, seconds, outcome, active_count() - threads_before)
            raise
        seconds, new_threads = monotonic() - started, active_count() - threads_before
        if new_threads or seconds > MIN_SLOW_SECONDS or statistics.trace:  # rarely true
            statistics.record(self, hook, seconds, "returned", new_threads)
        return result


def slow_seconds(hook: str) -> float:
    """Return the seconds after which a call of this hook or method is slow."""
    return SLOW_SECONDS.get(hook, OTHER_SLOW_SECONDS)


class MeasuredProxy:
    """Proxy of a plugin's object: calls its `methods` through a `MeasuredCaller`, and passes on everything else.

    The object itself is not changed: plugins may use frozen classes and slots, and rely on `type(self)`.
    """

    def __init__(self, target: object, caller: MeasuredCaller, methods: Sequence[str]) -> None:
        # The methods are in the proxy's own dictionary, so that their frequent lookups do not call `__getattr__`.
        vars(self).update({name: _measured_method(target, name, caller) for name in methods}, _target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_target"], name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(vars(self)["_target"], name, value)

    def __repr__(self) -> str:
        return repr(vars(self)["_target"])


def _measured_method(target: object, name: str, caller: MeasuredCaller) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        # The method is looked up at each call, because tests replace methods of classes that have instances already.
        return caller(name, getattr(target, name), *arguments, **named)

    return call


def measure(target: T, caller: MeasuredCaller, methods: Sequence[str]) -> T:
    """Return a proxy of `target` whose `methods` are measured."""
    return cast(T, MeasuredProxy(target, caller, methods))


def unwrap(measured: T) -> T:
    """Return the object behind a proxy, for code of the same plugin. Return any other object unchanged."""
    return cast(T, vars(measured)["_target"]) if type(measured) is MeasuredProxy else measured


@frozen
class MeasuredFactory(Generic[T]):
    """Factory of objects of a plugin's class. It measures the constructor and the methods of the objects."""

    cls: type[T]
    caller: MeasuredCaller
    methods: Sequence[str]

    def __call__(self, *arguments: Any) -> T:
        """Construct an object and return its proxy."""
        return measure(self.caller("__init__", self.cls, *arguments), self.caller, self.methods)
