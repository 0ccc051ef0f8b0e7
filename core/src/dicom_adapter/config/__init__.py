"""The configuration: converts TOML to frozen values, and reports all problems at once."""

from dicom_adapter.config.listening import ClientCertificates, DicomConfig, HttpConfig, TlsConfig, TlsProfile
from dicom_adapter.config.load import Loaded, load, plugin_settings, structure, tables_of
from dicom_adapter.config.model import (
    AeTitleConfig,
    CallerConfig,
    Config,
    Durability,
    LedgerConfig,
    LogConfig,
    LogFormat,
    LogLevel,
    PluginsConfig,
    StorageConfig,
    SubmitterConfig,
)
from dicom_adapter.config.notifications import NotificationConfig
from dicom_adapter.config.problems import ConfigProblem, ConfigProblemKind
from dicom_adapter.config.tables import prefixes_of

__all__ = [
    "AeTitleConfig",
    "CallerConfig",
    "ClientCertificates",
    "Config",
    "ConfigProblem",
    "ConfigProblemKind",
    "DicomConfig",
    "Durability",
    "HttpConfig",
    "LedgerConfig",
    "Loaded",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "NotificationConfig",
    "PluginsConfig",
    "StorageConfig",
    "SubmitterConfig",
    "TlsConfig",
    "TlsProfile",
    "load",
    "plugin_settings",
    "prefixes_of",
    "structure",
    "tables_of",
]
