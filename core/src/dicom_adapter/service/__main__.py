"""The process that supervises: `python -m dicom_adapter.service DESCRIPTOR`, which `dicom-adapter run` becomes.

To check a configuration, `run` has to load every plugin. What watches over the others afterwards, for months, has
loaded none: nothing that a plugin does can end it, and it takes half of the memory.
"""

from __future__ import annotations

from dicom_adapter.runtime import structlog_without_rich  # noqa: F401 - before anything loads structlog

# isort: split
import json
import os
import sys
import threading

from dicom_adapter.runtime import logs
from dicom_adapter.service.supervisor import Blueprint, CannotStart, Service


def main() -> None:
    with os.fdopen(int(sys.argv[1]), encoding="utf-8") as file:
        file.seek(0)
        blueprint = Blueprint.from_json(json.load(file))
    logs.configure(style=blueprint.log_style, level=blueprint.log_level, process="service")
    service = Service(blueprint)
    if blueprint.stop_with_stdin:
        threading.Thread(target=_stop_with_stdin, args=(service,), daemon=True).start()
    try:
        service.run()
    except CannotStart as refusal:
        sys.exit(f"error: {refusal}")


def _stop_with_stdin(service: Service) -> None:
    while os.read(0, 4096):
        pass
    service.stop()


if __name__ == "__main__":
    main()
