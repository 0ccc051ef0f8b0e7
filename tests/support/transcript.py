"""Commands and their output in a page of the documentation, compared with the real output, or replaced by it.

Values that change from run to run are replaced by fixed values of the same kind. This is done before a command wraps
its text, so that the line breaks do not depend on the real values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

from attrs import define, field

from support.pages import BLOCK, read

PROMPT = "$ dicom-adapter "
TIME = re.compile(r"(?:(\d{4}-\d\d-\d\d) )?\b(\d\d:\d\d:\d\d)\b( (?:[+-]\d\d:\d\d(?!:?\d)|UTC\b))?")
ZONE = re.compile(r"UTC[+-]\d\d:\d\d")
LAST_REPORT = re.compile(r"(last report at) \S+ \S+ \S+")
DATE_LINE = re.compile(r"^\d{4}-\d\d-\d\d$", re.MULTILINE)
FORMAT = "%Y-%m-%d %H:%M:%S"
SHOWN_ZONE = timezone(timedelta(hours=1), "+01:00")
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
# The digits of a shown time are masked until all times are replaced, so that no shown time is replaced again.
MASK = {ord(digit): 0xE000 + int(digit) for digit in "0123456789"}
UNMASK = {masked: digit for digit, masked in MASK.items()}


@define
class ShownTimes:
    """The times of a page.

    A mark is a real time and the time to show for it. The same time is shown for all real times until the next mark.
    """

    zone: timezone  # of the real times in the output
    wait: timedelta  # between an event and its deadline; times more than a minute in the future are deadlines
    _marks: list[tuple[datetime, datetime]] = field(factory=list)  # real and shown times, in order

    @property
    def now(self) -> datetime:
        """The last time that is shown."""
        return self._marks[-1][1]

    def mark(self, shown: str, real: datetime) -> None:
        """Add a mark: from the second of `real` on, show the time `shown`, such as `2026-01-05 09:00:00`."""
        moment = datetime.strptime(shown, FORMAT).replace(tzinfo=SHOWN_ZONE)
        self._marks = sorted([*self._marks, (real.replace(microsecond=0), moment)])

    def show(self, real: datetime) -> datetime:
        """Return the time to show for a real time."""
        if real > datetime.now(timezone.utc) + MINUTE:
            return self.show(real - self.wait) + self.wait
        if real < self._marks[0][0]:  # a time of an earlier day
            return self.show(real + DAY) - DAY
        return max(mark for mark in self._marks if mark[0] <= real)[1]

    def replace_in(self, text: str) -> str:
        """Replace all times of a text.

        Remove phrases that a command prints only if two events are in different seconds: this changes from run to run.
        """
        text = re.sub(r" until \d\d:\d\d:\d\d", "", text)
        text = re.sub(r"(was submitted) at [\d:]+ \([^)]*\)", r"\1", text)
        text = LAST_REPORT.sub(lambda match: f"{match[1]} {f'{self.now:{FORMAT}} {SHOWN_ZONE}'.translate(MASK)}", text)
        text = ZONE.sub(lambda _match: f"UTC{SHOWN_ZONE}".translate(MASK), TIME.sub(self._replaced, text))
        return DATE_LINE.sub(lambda _match: f"{self.now:%Y-%m-%d}".translate(MASK), text)

    def _replaced(self, match: re.Match[str]) -> str:
        date, clock, zone = match.groups()
        day = date or datetime.now(self.zone).date()
        shown = self.show(datetime.strptime(f"{day} {clock}", FORMAT).replace(tzinfo=self.zone))
        text = f"{shown:{FORMAT}}" if date else f"{shown:%H:%M:%S}"
        return f"{text}{f' {SHOWN_ZONE}' if zone else ''}".translate(MASK)


@define
class Transcript:
    """The blocks of a page whose info string begins with `console` and a name."""

    page: Path
    name: str
    run: Callable[[str], str]  # runs a command with these arguments, and returns its output as it is shown
    afterwards: Mapping[str, Callable[[], None]]  # functions to call after a block whose info string has this word

    def renewed(self) -> str:
        """Run all commands, in order. Return the text of the page with their output."""
        return BLOCK.sub(self._block, read(self.page))

    def _block(self, match: re.Match[str]) -> str:
        words = match[1].split()
        if words[:2] != ["console", self.name]:
            return match[0]
        commands = [line for line in match[2].splitlines() if line.startswith(PROMPT)]
        outputs = [f"{command}\n{self.run(command.removeprefix(PROMPT))}" for command in commands]
        for word in words[2:]:
            self.afterwards[word]()
        return f"```{match[1]}\n" + "\n".join(outputs) + "```"
