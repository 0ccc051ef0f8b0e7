"""Test one plugin, and write reports as lines of JSON.

    python -m dicom_adapter.simulation.doctor NAME CONFIG KEY=VALUE…

CONFIG is the path of a configuration, or empty.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import structlog.testing
from attrs import asdict

from dicom_adapter.config import tables_of
from dicom_adapter.dicom.part10 import keep_values_out_of_warnings
from dicom_adapter.simulation.doctor.sandbox import Sandbox
from dicom_adapter.simulation.doctor.values import parse_setting


def main(name: str, configuration: Path | None, settings: list[str]) -> None:
    reports = os.dup(1)
    os.dup2(2, 1)  # only reports may be written to the pipe

    def report(message: dict[str, Any]) -> None:
        os.write(reports, json.dumps(message).encode() + b"\n")

    keep_values_out_of_warnings()
    tables = {} if configuration is None else tables_of(configuration.read_text(encoding="utf-8"))
    folder = Path.cwd() if configuration is None else configuration.resolve().parent
    with (
        tempfile.TemporaryDirectory(prefix="dicom-adapter-doctor-") as temporary,
        structlog.testing.capture_logs() as logged,
    ):
        sandbox = Sandbox(name, Path(temporary), tables, folder, logged, dict(map(parse_setting, settings)))
        for trial in sandbox.trials(lambda trial: report({"begins": trial})):
            report(asdict(trial))
    os._exit(0)  # do not wait for threads of the plugin


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if sys.argv[2] else None, sys.argv[3:])
