"""The configuration: TOML to frozen values, with every problem told at once."""

from dicom_adapter.config.load import Loaded, load
from dicom_adapter.config.model import (
    AeTitleConfig,
    Caller,
    ClientCertificates,
    Config,
    Dicom,
    Durability,
    Http,
    Ledger,
    Log,
    LogFormat,
    LogLevel,
    Storage,
    SubmitterConfig,
    Tls,
    TlsProfile,
)
from dicom_adapter.config.problems import Problem, ProblemKind

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
    "Problem",
    "ProblemKind",
    "Storage",
    "SubmitterConfig",
    "Tls",
    "TlsProfile",
    "load",
]
