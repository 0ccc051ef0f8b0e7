"""A schedule of arrivals: read from a TOML or CSV file, written as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, time
from pathlib import Path
from typing import Any

import tomli
from attrs import field, fields, frozen
from pydicom.datadict import tag_for_keyword

from dicom_adapter.api.errors import ConfigurationError
from dicom_adapter.api.values import AssociationStatus
from dicom_adapter.config.suggest import listed, suggestion
from dicom_adapter.dicom.synthetic import MODALITIES
from dicom_adapter.simulation.clock import BEGINNING

MAX_INSTANCES = 100_000  # maximum number of instances in one arrival; a larger number is probably a mistake
DAY_S = 86_400
CUT_OFF = "cut-off"  # aborted in the middle of a data set
ENDS = {
    "released": AssociationStatus.RELEASED,
    "aborted": AssociationStatus.ABORTED,
    "lost": AssociationStatus.LOST,
    CUT_OFF: AssociationStatus.ABORTED,
}


@frozen(kw_only=True)
class ScheduledArrival:
    """Instances of one series that arrive in one association."""

    time: float  # arrival of the first instance, in seconds since the start
    ae_title: str  # called AE title
    patient: str  # any name, from which the Patient ID is derived
    study: str  # any name, from which the Study Instance UID is derived
    series: str = "1"  # any name, from which the Series Instance UID is derived
    count: int = 1  # number of instances
    over: float = 0.0  # seconds from the first instance to the last
    modality: str = "CT"
    association: str = ""  # arrivals with the same name share an association; "": a separate association
    calling_ae_title: str = "SIMULATED"
    refused: int = 0  # number of instances that are refused after the last instance, not included in `count`
    end: str = "released"  # how the association ends after its last arrival: one of ENDS
    attributes: Mapping[str, str] = field(factory=dict, repr=False)  # values of other attributes, by DICOM keyword


@frozen(kw_only=True)
class Schedule:
    """Arrivals in the order of time."""

    start: datetime = BEGINNING  # time in UTC that is 0 s of the schedule
    arrivals: tuple[ScheduledArrival, ...]


KEYS = tuple(
    attribute.name.replace("_", "-") for attribute in fields(ScheduledArrival) if attribute.name != "attributes"
)
REQUIRED = ("time", "ae-title", "patient", "study")


def read(path: Path, ae_titles: Collection[str]) -> Schedule:
    """Read a schedule: CSV if the file name ends in `.csv`, otherwise TOML.

    Raises OSError, and ConfigurationError with all problems, each with its line or key.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        start, rows = _csv(text) if path.suffix.lower() == ".csv" else _toml(text)
    except UnicodeDecodeError:
        raise ConfigurationError([f"{path}: not UTF-8"]) from None
    except ValueError as failure:
        raise ConfigurationError([f"{path}: {failure}"]) from None
    problems: list[str] = []
    arrivals = []
    for where, row in rows:
        reader = _Row(f"{path}: {where}", row, problems)
        arrivals.append(reader.arrival(ae_titles))
    if problems:
        raise ConfigurationError(problems)
    return Schedule(start=start, arrivals=tuple(sorted(filter(None, arrivals), key=lambda arrival: arrival.time)))


Rows = Iterable[tuple[str, Mapping[str, Any]]]


def _csv(text: str) -> tuple[datetime, Rows]:
    lines = csv.reader(io.StringIO(text), strict=True)
    try:
        numbered = [(lines.line_num, line) for line in lines if line and not line[0].lstrip().startswith("#")]
    except csv.Error as failure:
        raise ValueError(f"line {lines.line_num}: {failure}") from None
    if not numbered:
        raise ValueError(f"the file is empty; its first line must name the columns, such as {','.join(REQUIRED)},count")
    heading = [name.strip() for name in numbered[0][1]]
    return BEGINNING, [(f"line {number}", _cells(number, heading, cells)) for number, cells in numbered[1:]]


def _cells(number: int, heading: list[str], cells: list[str]) -> Mapping[str, str]:
    if len(cells) != len(heading):
        raise ValueError(f"line {number}: it has {len(cells)} values, but there are {len(heading)} columns")
    return {name: cell.strip() for name, cell in zip(heading, cells, strict=True) if cell.strip()}


def _toml(text: str) -> tuple[datetime, Rows]:
    document = tomli.loads(text)
    start, tables = document.pop("start", BEGINNING), document.pop("arrivals", None)
    if document:
        raise ValueError(f"{next(iter(document))}: unknown key; a schedule has only start and [[arrivals]]")
    if not isinstance(start, datetime) or start.utcoffset() is None:
        raise ValueError("start: must be a date and time with a time zone, such as 2026-01-05T08:00:00Z")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("arrivals: must be tables [[arrivals]]")
    return start, [(f"arrivals[{number}]", table) for number, table in enumerate(tables)]


@frozen
class _Row:
    """One arrival in a file; its errors are added to `problems`."""

    where: str
    values: Mapping[str, Any]
    problems: list[str]

    def arrival(self, ae_titles: Collection[str]) -> ScheduledArrival | None:
        before = len(self.problems)
        for key in REQUIRED:
            if key not in self.values:
                self._problem(key, "is missing")
        if self.values.get("ae-title", next(iter(ae_titles))) not in ae_titles:
            given = self.values["ae-title"]
            self._problem("ae-title", f"{given!r} is not configured (configured: {listed(ae_titles)})")
        found: dict[str, Any] = {"attributes": dict(self._attributes())}
        for key in KEYS:
            if key in self.values:
                found[key.replace("-", "_")] = self._value(key)
        return ScheduledArrival(**found) if len(self.problems) == before else None

    def _attributes(self) -> Iterator[tuple[str, str]]:
        for key, value in self.values.items():
            if key in KEYS:
                continue
            if tag_for_keyword(key) is None:
                self._problem(key, f"neither a key of a schedule nor a DICOM keyword{suggestion(key, KEYS)}")
            yield key, str(value)

    def _value(self, key: str) -> object:
        value = self.values[key]
        if key in ("time", "over"):
            return self._seconds(key, value)
        if key in ("count", "refused"):
            return self._count(key, value)
        if not isinstance(value, (str, int)) or isinstance(value, bool) or not str(value):
            self._problem(key, f"{value!r} must be a string")
        allowed = {"modality": MODALITIES, "end": ENDS}.get(key)
        if allowed is not None and value not in allowed:
            self._problem(key, f"{value!r} must be one of {', '.join(allowed)}")
        return str(value)

    def _seconds(self, key: str, value: object) -> float:
        try:
            seconds = _as_seconds(value)
        except (ValueError, TypeError):
            seconds = -1.0
        if not 0 <= seconds <= 366 * DAY_S:
            self._problem(key, f"{value!r} must be seconds, or hours:minutes:seconds, since the start")
        return seconds

    def _count(self, key: str, value: object) -> int:
        least = 1 if key == "count" else 0
        try:
            count = int(value) if isinstance(value, str) else value
        except ValueError:
            count = None
        if isinstance(count, bool) or not isinstance(count, int) or not least <= count <= MAX_INSTANCES:
            self._problem(key, f"{value!r} must be a whole number from {least} to {MAX_INSTANCES}")
            return least
        return count

    def _problem(self, key: str, what: str) -> None:
        self.problems.append(f"{self.where}: {key}: {what}")


def _as_seconds(value: object) -> float:
    """Convert to seconds. Raises ValueError or TypeError."""
    if isinstance(value, time):
        return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    seconds = 0.0
    for part in str(value).split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def to_csv(arrivals: Iterable[ScheduledArrival]) -> str:
    """Return a schedule as CSV, which `read` accepts."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(KEYS)
    for arrival in arrivals:
        cells = [getattr(arrival, key.replace("-", "_")) for key in KEYS]
        writer.writerow([f"{cell:.3f}" if isinstance(cell, float) else cell for cell in cells])
    return file.getvalue()
