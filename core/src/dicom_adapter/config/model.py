"""The configuration: frozen values, compared by content, so that a reload sees what changed.

A field `max_pdu` is the key `max-pdu`; `help` is what the reference documentation says of it.
"""

# ruff: noqa: RUF009 - `setting` and `derived` return attrs fields, as `attrs.field` does

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from attrs import Attribute, field, frozen
from attrs.validators import optional

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.settings import HELP, ByteSize, at_least, between, not_empty, setting
from dicom_adapter.config.listening import DAY_S, DicomConfig, HttpConfig
from dicom_adapter.config.names import AeTitle, Keyword, LedgerUrl, Network, SubmitterName, Uid
from dicom_adapter.config.tables import DERIVED

YEAR_S = 366 * DAY_S  # the longest wait: more is a mistake, and too long for some clocks


def derived(*, default: Any, help: str) -> Any:  # noqa: A002 - as in `setting`
    """A field that no key of the table sets."""
    return field(default=default, metadata={DERIVED: True, HELP: help}, kw_only=True)


def _some_table(_instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """at least one"""

    if not value:
        raise ValueError(f"must have at least one table [{attribute.name.replace('_', '-')}.<name>]")


def _callers(_instance: Any, _attribute: Attribute[Any], value: Any) -> None:
    """not empty"""

    if value is not None and not value:
        raise ValueError("must not be empty; leave it out to allow every caller")


class Durability(str, Enum):
    """What an acknowledged instance survives."""

    FSYNC = "fsync"  # a power loss
    PROCESS = "process"  # the end of the adapter's processes, not of the machine


class LogFormat(str, Enum):
    """How the log is written."""

    AUTO = "auto"  # for people on a terminal, JSON otherwise
    CONSOLE = "console"
    JSON = "json"


class LogLevel(str, Enum):
    """The least important events that the log shows."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@frozen(kw_only=True)
class StorageConfig:
    """[storage]: where instances wait. Further keys are the backend's own."""

    backend: str = setting(default="local", help="Name of the storage backend, as `dicom-adapter plugins` lists it.")
    path: Path = setting(help="The adapter's data folder. It is made when it is not there.")
    watermark_percent: int = setting(
        default=85,
        validator=between(1, 100),
        help="Share of the room in use from which associations are refused; 100 switches this limit off.",
    )
    reserve: ByteSize = setting(
        default=ByteSize(5 * 10**9),
        validator=at_least(0, "bytes"),
        help=(
            'Room that stays free, in bytes or as a text such as `"5 GB"`: below it associations are refused, and '
            "instances that would use it up; 0 switches this limit off. `kB`, `MB`, `GB`, `TB` are powers of "
            "1000, `KiB`, `MiB`, `GiB`, `TiB` of 1024."
        ),
    )
    quarantine_quota: ByteSize = setting(
        default=ByteSize(20 * 10**9),
        validator=at_least(0, "bytes"),
        help=(
            "Room that the quarantined instances and those of the faulted jobs of one AE title may take, in bytes "
            'or as a text such as `"20 GB"`; beyond it, associations to that AE title are refused until an '
            "operator has made room."
        ),
    )
    durability: Durability = setting(
        default=Durability.FSYNC,
        help="What an acknowledged instance survives: a power loss (`fsync`), or the end of a process (`process`).",
    )
    settings: Any = derived(default=None, help="The backend's own settings.")


@frozen(kw_only=True)
class LedgerConfig:
    """[ledger]: the database of instances, jobs and events."""

    url: LedgerUrl | None = setting(
        default=None,
        help=(
            "`sqlite:///<file>`; left out, the file `ledger.sqlite` in `storage.path`. It is on a local disk, and "
            "nobody but the service's user should be able to read its folder: it holds patient IDs."
        ),
    )
    history_days: float = setting(
        default=30.0,
        validator=between(0, 3660, "days"),
        help=(
            "Days for which reclaimed instances, finished jobs and events are remembered. What is pending, in "
            "quarantine or part of an unfinished or faulted job is remembered as long as it is."
        ),
    )


@frozen(kw_only=True)
class LogConfig:
    """[log]"""

    format: LogFormat = setting(default=LogFormat.AUTO, help="`auto` is `console` on a terminal, `json` otherwise.")
    level: LogLevel = setting(default=LogLevel.INFO, help="The least important events to show.")


@frozen(kw_only=True)
class SubmitterConfig:
    """[submitters.<name>]: a way to a platform. Further keys are the submitter's own."""

    type: str = setting(help="Name of the submitter, as `dicom-adapter plugins` lists it.")
    parallel: int = setting(
        default=4,
        validator=between(1, 64),
        help="Steps at the same time, each of another job, and uploads at the same time.",
    )
    retry_for: float = setting(
        default=float(DAY_S),
        validator=between(0, YEAR_S, "seconds"),
        help=(
            "Seconds during which retriable errors of a job are retried, from the first failure of a step on; "
            "then the job is faulted."
        ),
    )
    retry_first: float = setting(
        default=2.0,
        validator=between(0.1, DAY_S, "seconds"),
        help="Seconds before the first retry; they double then. Chance takes up to half of each pause away.",
    )
    retry_most: float = setting(
        default=300.0,
        validator=between(0.1, DAY_S, "seconds"),
        help="Longest pause between retries, in seconds; not below `retry-first`.",
    )
    status_every: float | None = setting(
        default=None,
        validator=optional(between(0.1, DAY_S, "seconds")),
        help="Seconds between two questions to the platform what became of a started job; left out, it is not asked.",
    )
    settings: Any = derived(default=None, help="The submitter's own settings; None when it is unavailable.")
    unavailable: str = derived(default="", help="Why it cannot be used; empty when it can.")

    def __attrs_post_init__(self) -> None:
        if self.retry_most < self.retry_first:
            raise ValueError(f"retry-most = {self.retry_most:g} must not be below retry-first = {self.retry_first:g}")


@frozen(kw_only=True)
class CallerConfig:
    """One entry of allowed-callers; all that is given must hold."""

    ae_title: AeTitle | None = setting(default=None, help="Calling AE title.")
    host: Network | None = setting(default=None, help="IP address, or network in CIDR notation, of the caller.")
    certificate: str | None = setting(
        default=None,
        validator=optional(not_empty),
        help=(
            "Common name, or a DNS name, in the certificate that the caller must show (in lower or upper case). "
            "Needs `dicom.tls` with `client-ca`."
        ),
    )

    def __attrs_post_init__(self) -> None:
        if (self.ae_title, self.host, self.certificate) == (None, None, None):
            raise ValueError("ae-title, host or certificate must be given")


@frozen(kw_only=True)
class AeTitleConfig:
    """[ae-titles.<AE title>]: what is accepted for a called AE title, and what becomes of it."""

    processor: str = setting(default="aetitle", help="Name of the job processor, as `dicom-adapter plugins` lists it.")
    allowed_callers: tuple[CallerConfig, ...] | None = setting(
        default=None,
        validator=_callers,
        help="Who may send: calling AE titles, or tables as below. Left out, everybody.",
    )
    ignored_sop_classes: tuple[Uid, ...] = setting(
        default=(), help="SOP class UIDs whose instances are acknowledged and not kept."
    )
    overwrite_same_instance: bool = setting(
        default=False, help="Whether an instance that comes again while it is pending replaces the earlier one."
    )
    submitter: str | None = setting(
        default=None, help="Name of the `[submitters.<name>]` table; left out, `default-submitter` or the only one."
    )
    metadata: tuple[Keyword, ...] = setting(
        default=(),
        help=(
            "DICOM keywords whose values go to the platform with each job: **patient data, if you name such "
            "attributes**."
        ),
    )
    settings: Any = setting(default=None, help="The processor's own settings.")
    unavailable: str = derived(default="", help="Why its processor cannot be used; empty when it can.")


@frozen(kw_only=True)
class PluginsConfig:
    """[plugins]: which of the installed plugins are used."""

    disable: tuple[str, ...] = setting(
        default=(),
        help="Names of plugins that are not loaded, as `dicom-adapter plugins` lists them in the column *Plugin*.",
    )


@frozen(kw_only=True)
class Config:
    """The whole file."""

    dicom: DicomConfig = setting(factory=DicomConfig, help="The listening port and the limits of associations.")
    http: HttpConfig | None = setting(
        default=None, help="The HTTP server of health and of what plugins bring; without this table there is none."
    )
    storage: StorageConfig = setting(help="Where instances wait.")
    ledger: LedgerConfig = setting(factory=LedgerConfig, help="The database of instances, jobs and events.")
    log: LogConfig = setting(factory=LogConfig, help="What is logged, and how.")
    plugins: PluginsConfig = setting(factory=PluginsConfig, help="Which of the installed plugins are used.")
    submitters: Mapping[SubmitterName, SubmitterConfig] = setting(
        factory=dict,
        validator=_some_table,
        help=(
            "The ways to platforms, by name: 1 to 64 letters, digits, `.`, `_` and `-`, beginning with a letter "
            "or digit."
        ),
    )
    default_submitter: str | None = setting(
        default=None,
        help=(
            "Submitter of the AE titles that name none. Only needed when there are several: the only one is the "
            "default by itself."
        ),
    )
    ae_titles: Mapping[AeTitle, AeTitleConfig] = setting(
        factory=dict, validator=_some_table, help="The called AE titles that are served."
    )

    @property
    def ledger_url(self) -> str:
        """The ledger as SQLAlchemy names it."""
        return self.ledger.url or f"sqlite:///{self.storage.path / 'ledger.sqlite'}"

    def submitter_for(self, ae_title: str) -> str:
        """The name of the submitter that takes this AE title's jobs."""
        named = self.ae_titles[ae_title].submitter or self.default_submitter
        if named is not None:
            return named
        if len(self.submitters) != 1:
            raise Refused(f"AE title '{ae_title}': submitter is missing, and there is no default-submitter")
        return next(iter(self.submitters))

    def unavailable(self, ae_title: str) -> str:
        """Why this AE title cannot be served at present; "" when it can."""
        own = self.ae_titles[ae_title].unavailable
        name = self.submitter_for(ae_title)
        theirs = self.submitters[name].unavailable
        return own or (theirs and f"submitter '{name}' needs {theirs}")
