"""The blueprint of the service: a checked configuration, and the options to start the processes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict, evolve, frozen

from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.service.reload.snapshot import Snapshot


@frozen(kw_only=True)
class Blueprint:
    """The input of the supervisor, which `dicom-adapter run` creates.

    The supervisor loads no plugin and parses no configuration: it passes the text to the processes, and uses only the
    values in this class.
    """

    path: str  # path of the configuration file
    configuration: str  # text of the configuration file
    folder: str  # folder at which relative paths in the text start
    settings: Snapshot  # values of the configuration, for comparisons
    log_style: str  # style of the log: "console" or "json"
    port: int | None  # port that replaces the configured port; None: the configured port
    storage_plugin: str  # name of the only entry point that receivers load
    receivers: int  # number of receivers
    data_folder: str
    ledger_url: str
    is_durable: bool  # True if rows of the ledger must survive a power loss
    log_level: str
    trace_hooks: bool = False  # log every call of a plugin
    stop_with_stdin: bool = False  # also stop when standard input is closed

    def to_json(self) -> dict[str, Any]:
        """Return the blueprint as JSON values, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Blueprint:
        """Return the blueprint that `to_json` encoded."""
        return cls(**{**values, "settings": Snapshot(**values["settings"])})

    def with_configuration(self, requested: Configuration) -> Blueprint:
        """Return the same blueprint with another configuration."""
        return evolve(
            self, configuration=requested.text, folder=requested.folder, settings=Snapshot(**requested.settings)
        )

    def title_of(self, process: str) -> str:
        """Return the title of a process, which `ps` shows: `dicom-adapter: receiver 1 of 2 (/etc/adapter.toml)`."""
        return f"dicom-adapter: {process} ({self.path})"

    @property
    def drain_seconds(self) -> float:
        """Time limit for open associations at a stop."""
        return float(self.settings.service["dicom.drain-timeout"])
