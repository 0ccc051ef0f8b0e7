"""The configuration: TOML to frozen values, with every problem told at once."""

from dicom_adapter.config.listening import ClientCertificates, Dicom, Http, Tls, TlsProfile
from dicom_adapter.config.load import Loaded, load, plugin_settings, structure, tables_of
from dicom_adapter.config.model import (
    AeTitleConfig,
    Caller,
    Config,
    Durability,
    Ledger,
    Log,
    LogFormat,
    LogLevel,
    PluginSettings,
    Storage,
    SubmitterConfig,
)
from dicom_adapter.config.problems import Problem, ProblemKind
from dicom_adapter.config.tables import prefixes_of

__all__ = [
    "AeTitleConfig",
    "Caller",
    "ClientCertificates",
    "Config",
    "Dicom",
    "Durability",
    "Http",
    "Ledger",
    "Loaded",
    "Log",
    "LogFormat",
    "LogLevel",
    "PluginSettings",
    "Problem",
    "ProblemKind",
    "Storage",
    "SubmitterConfig",
    "Tls",
    "TlsProfile",
    "load",
    "plugin_settings",
    "prefixes_of",
    "structure",
    "tables_of",
]
