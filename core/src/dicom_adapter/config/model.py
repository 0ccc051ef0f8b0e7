"""The configuration: frozen values, compared by content, so that a reload finds the changes.

The key `max-pdu` sets the field `max_pdu`. `help` is the text in the reference documentation.
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
from dicom_adapter.config.notifications import NotificationConfig
from dicom_adapter.config.references import referenced_submitters
from dicom_adapter.config.results import ResultsConfig
from dicom_adapter.config.tables import DERIVED
from dicom_adapter.config.transfer_syntaxes import TransferSyntax

YEAR_S = 366 * DAY_S  # longest accepted time: a longer time is a mistake, and exceeds the range of some clocks


def derived(*, default: Any, help: str) -> Any:  # noqa: A002 - as in `setting`
    """Declare a field that is computed: no key of the table sets it."""
    return field(default=default, metadata={DERIVED: True, HELP: help}, kw_only=True)


# The first line of a validator's docstring is shown as the rule in the reference of the settings.
def _validate_tables(_instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """at least one

    Validate that there is a table below this one.
    """
    if not value:
        raise ValueError(f"must have at least one table [{attribute.name.replace('_', '-')}.<name>]")


def _validate_callers(_instance: Any, _attribute: Attribute[Any], value: Any) -> None:
    """not empty

    Validate the list of allowed callers.
    """
    if value is not None and not value:
        raise ValueError("must not be empty; omit it to allow every caller")


class Durability(str, Enum):
    """The failures that an acknowledged instance survives."""

    FSYNC = "fsync"  # a power loss
    PROCESS = "process"  # a crash of the adapter's processes, not of the machine


class WrongEncoding(str, Enum):
    """The treatment of data sets that are not encoded as their transfer syntax requires."""

    REFUSE = "refuse"  # answer the C-STORE with 0xC000
    QUARANTINE = "quarantine"  # store the instance for an operator; no processor receives it


class LogFormat(str, Enum):
    """The format of the log."""

    AUTO = "auto"  # for people on a terminal, JSON otherwise
    CONSOLE = "console"
    JSON = "json"


class LogLevel(str, Enum):
    """The lowest level of events that the log shows."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def default_ledger_url(storage_path: Path) -> str:
    """Return the URL of the ledger in the data folder."""
    return f"sqlite:///{storage_path / 'ledger.sqlite'}"


@frozen(kw_only=True)
class StorageConfig:
    """[storage]: the storage backend and its limits. All keys without a field below are settings of the backend."""

    backend: str = setting(default="local", help="Name of the storage backend, as `dicom-adapter plugins` lists it.")
    path: Path = setting(help="The adapter's data folder; it is created if it does not exist.")
    watermark_percent: int = setting(
        default=85,
        validator=between(1, 100),
        help=("Associations are rejected when this percentage of the space, or more, is used; 100 disables the limit."),
    )
    reserve: ByteSize = setting(
        default=ByteSize(5 * 10**9),
        validator=at_least(0, "bytes"),
        help=(
            'Space to keep free, in bytes or as text, for example `"5 GB"`. If less space is free, associations are '
            "rejected; an instance that would leave less is refused. 0 disables the limit. `kB`, `MB`, `GB` and `TB` "
            "are powers of 1000; `KiB`, `MiB`, `GiB` and `TiB` are powers of 1024."
        ),
    )
    quarantine_quota: ByteSize = setting(
        default=ByteSize(20 * 10**9),
        validator=at_least(0, "bytes"),
        help=(
            "Space that the quarantined instances and the instances of faulted and failed jobs of one AE title may "
            'use, in bytes or as text, for example `"20 GB"`. If they use more, associations to that AE title are '
            "rejected until an operator frees space."
        ),
    )
    durability: Durability = setting(
        default=Durability.FSYNC,
        help="Failure that an acknowledged instance survives: a power loss (`fsync`) or a process crash (`process`).",
    )
    settings: Any = derived(default=None, help="Settings of the backend.")


@frozen(kw_only=True)
class LedgerConfig:
    """[ledger]: the database of instances, jobs and events."""

    url: LedgerUrl | None = setting(
        default=None,
        help=(
            "`sqlite:///<file>`; if omitted, the file `ledger.sqlite` in `storage.path`. The file must be on a local "
            "disk. It holds patient IDs and accession numbers: only the service's user should be able to read its "
            "folder."
        ),
    )
    history_days: float = setting(
        default=30.0,
        validator=between(0, 3660, "days"),
        help=(
            "Days for which the records of reclaimed instances, finished jobs and events are kept. Records of "
            "instances that are pending, in quarantine or in an unfinished, faulted or failed job are kept at least "
            "until that state ends."
        ),
    )
    keep_descriptions: bool = setting(
        default=False,
        help=(
            "If true, the ledger keeps the Study Description and the Series Description of new instances, for the "
            "commands that look for studies. **They may contain patient data**."
        ),
    )


@frozen(kw_only=True)
class LogConfig:
    """[log]: the format and the level of the log, and core dumps."""

    format: LogFormat = setting(
        default=LogFormat.AUTO, help="`auto` means `console` on a terminal and `json` otherwise."
    )
    level: LogLevel = setting(default=LogLevel.INFO, help="Lowest level of the events to show.")
    core_dumps: bool = setting(
        default=False,
        help=(
            "If true, the system may write core dumps of processes that crash, up to the size that the hard limit "
            "`RLIMIT_CORE` of the service's environment allows. **They contain patient data**."
        ),
    )


@frozen(kw_only=True)
class SubmitterConfig:
    """[submitters.<name>]: a connection to a platform. All keys without a field below are the submitter's settings."""

    type: str = setting(help="Name of the submitter, as `dicom-adapter plugins` lists it.")
    parallel: int = setting(
        default=4,
        validator=between(1, 64),
        help=(
            "Maximum number of jobs that execute a step at the same time. It is also the maximum number of files that "
            "are uploaded at the same time."
        ),
    )
    retry_for: float = setting(
        default=float(DAY_S),
        validator=between(0, YEAR_S, "seconds"),
        help=(
            "Seconds for which retriable errors of a job are retried, counted from the first failure of a step; "
            "after this time the job is faulted."
        ),
    )
    retry_first: float = setting(
        default=2.0,
        validator=between(0.1, DAY_S, "seconds"),
        help=(
            "Seconds before the first retry. Each later pause is twice as long as the pause before; jitter shortens "
            "each pause by up to half."
        ),
    )
    retry_most: float = setting(
        default=300.0,
        validator=between(0.1, DAY_S, "seconds"),
        help=(
            "Longest pause between retries, in seconds; must not be below `retry-first`. While the platform is down, "
            "no pause is longer than 30 seconds."
        ),
    )
    status_every: float | None = setting(
        default=None,
        validator=optional(between(0.1, DAY_S, "seconds")),
        help=(
            "Seconds between two status queries for a started job. If omitted: 10 seconds if the submitter follows "
            "jobs until their end; otherwise the platform is not queried."
        ),
    )
    running: int | None = setting(
        default=None,
        validator=optional(between(1, 10_000)),
        help=(
            "Maximum number of jobs that run at the same time, where the submitter follows jobs; if omitted, what the "
            "submitter can run, or no limit."
        ),
    )
    time_limit: float | None = setting(
        default=None,
        validator=optional(between(1, YEAR_S, "seconds")),
        help=(
            "Seconds that a job may run. After this time the job is cancelled on the platform, and becomes failed. If "
            "omitted, jobs may run for any time."
        ),
    )
    settings: Any = derived(default=None, help="Settings of the submitter; None if the submitter is unavailable.")
    unavailable: str = derived(default="", help="Reason why the submitter cannot be used; empty if it can be used.")

    def __attrs_post_init__(self) -> None:
        if self.retry_most < self.retry_first:
            raise ValueError(f"retry-most = {self.retry_most:g} must not be below retry-first = {self.retry_first:g}")


@frozen(kw_only=True)
class CallerConfig:
    """One entry of allowed-callers; a caller must match all given keys."""

    ae_title: AeTitle | None = setting(default=None, help="Calling AE title.")
    host: Network | None = setting(default=None, help="IP address, or network in CIDR notation, of the caller.")
    certificate: str | None = setting(
        default=None,
        validator=optional(not_empty),
        help=(
            "Common name or DNS name in the caller's certificate; case is ignored. Requires `dicom.tls` with "
            "`client-ca`."
        ),
    )

    def __attrs_post_init__(self) -> None:
        if (self.ae_title, self.host, self.certificate) == (None, None, None):
            raise ValueError("ae-title, host or certificate must be given")


@frozen(kw_only=True)
class AeTitleConfig:
    """[ae-titles.<AE title>]: the callers, the processor and the submitter of a called AE title."""

    processor: str = setting(default="aetitle", help="Name of the job processor, as `dicom-adapter plugins` lists it.")
    allowed_callers: tuple[CallerConfig, ...] | None = setting(
        default=None,
        validator=_validate_callers,
        help="Allowed callers: calling AE titles, or tables as below. If omitted, every caller is allowed.",
    )
    ignored_sop_classes: tuple[Uid, ...] = setting(
        default=(), help="SOP class UIDs whose instances are acknowledged but not stored."
    )
    transfer_syntaxes: tuple[TransferSyntax, ...] | None = setting(
        default=None,
        validator=optional(not_empty),
        help=(
            "UIDs of the transfer syntaxes that are accepted for storage. If omitted, all transfer syntaxes of DICOM "
            "that the adapter supports are accepted."
        ),
    )
    unknown_transfer_syntaxes: bool = setting(
        default=False,
        help=(
            "If true, transfer syntaxes that DICOM does not define, such as private transfer syntaxes, are accepted, "
            "too. If a presentation context proposes both, an accepted transfer syntax of DICOM has precedence. Data "
            "sets in an unknown transfer syntax must be encoded in explicit VR little endian."
        ),
    )
    overwrite_same_instance: bool = setting(
        default=False,
        help=(
            "If true, a duplicate replaces the pending instance if their data sets differ. If false, such a duplicate "
            "is quarantined."
        ),
    )
    wrong_encoding: WrongEncoding = setting(
        default=WrongEncoding.REFUSE,
        help=(
            "Treatment of a data set that is not encoded as its transfer syntax requires: `refuse` it, or acknowledge "
            "it and `quarantine` the instance."
        ),
    )
    submitter: str | None = setting(
        default=None,
        help="Name of a `[submitters.<name>]` table; if omitted, `default-submitter` or the only submitter.",
    )
    metadata: tuple[Keyword, ...] = setting(
        default=(),
        help=(
            "DICOM keywords whose values are sent to the platform with each job: **patient data, if you name such "
            "attributes**."
        ),
    )
    results: ResultsConfig = setting(factory=ResultsConfig, help="Destinations and limits of the outputs of jobs.")
    settings: Any = setting(default=None, help="Settings of the processor.")
    unavailable: str = derived(default="", help="Reason why the processor cannot be used; empty if it can be used.")


@frozen(kw_only=True)
class PluginsConfig:
    """[plugins]: the selection of the installed plugins."""

    disable: tuple[str, ...] = setting(
        default=(),
        help="Names of plugins not to load, as listed by `dicom-adapter plugins` in the column *Plugin*.",
    )


@frozen(kw_only=True)
class Config:
    """The whole configuration file."""

    dicom: DicomConfig = setting(factory=DicomConfig, help="The listening port and the limits of associations.")
    http: HttpConfig | None = setting(
        default=None, help="The HTTP server for health and plugins; it runs only if this table is present."
    )
    storage: StorageConfig = setting(help="The storage backend and its limits.")
    ledger: LedgerConfig = setting(factory=LedgerConfig, help="The database of instances, jobs and events.")
    log: LogConfig = setting(factory=LogConfig, help="The format and the level of the log, and core dumps.")
    plugins: PluginsConfig = setting(factory=PluginsConfig, help="The selection of the installed plugins.")
    submitters: Mapping[SubmitterName, SubmitterConfig] = setting(
        factory=dict,
        validator=_validate_tables,
        help=(
            "The connections to platforms, by name. A name has 1 to 64 letters, digits, `.`, `_` and `-`, and begins "
            "with a letter or digit."
        ),
    )
    notifications: Mapping[SubmitterName, NotificationConfig] = setting(
        factory=dict, help="The messages to people, by name; names as those of submitters."
    )
    default_submitter: str | None = setting(
        default=None,
        help=(
            "Submitter of the AE titles that do not name a submitter. Required only if there are several submitters: "
            "a single submitter is the default."
        ),
    )
    ae_titles: Mapping[AeTitle, AeTitleConfig] = setting(
        factory=dict, validator=_validate_tables, help="The called AE titles that are served."
    )

    @property
    def ledger_url(self) -> str:
        """The URL of the ledger in the form of SQLAlchemy."""
        return self.ledger.url or default_ledger_url(self.storage.path)

    def submitter_for(self, ae_title: str) -> str:
        """Return the name of the submitter for the jobs of this AE title."""
        named = self.ae_titles[ae_title].submitter or self.default_submitter
        if named is not None:
            return named
        if len(self.submitters) != 1:
            raise Refused(f"AE title '{ae_title}': submitter is missing, and there is no default-submitter")
        return next(iter(self.submitters))

    def submitters_of(self, ae_title: str) -> list[str]:
        """Return the submitters that the AE title needs: its own, then those of single pipelines and of results."""
        table = self.ae_titles[ae_title]
        return list(dict.fromkeys([self.submitter_for(ae_title), *referenced_submitters(table)]))

    def unavailable(self, ae_title: str) -> str:
        """Return the reason why this AE title cannot be served, or "" if it can be served."""
        reason = self.ae_titles[ae_title].unavailable
        if reason:
            return f"needs {reason}"
        for name in self.submitters_of(ae_title):
            if self.submitters[name].unavailable:
                return f"submitter '{name}' needs {self.submitters[name].unavailable}"
        return ""
