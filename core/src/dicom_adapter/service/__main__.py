"""The supervisor process: `python -m dicom_adapter.service DESCRIPTOR`.

The command `dicom-adapter run` replaces its own process by the supervisor. To check a configuration, `run` has to load
every plugin. The supervisor, which runs for months, loads no plugin: so no plugin can end the supervisor, and its
process uses half of the memory.
"""

from __future__ import annotations

from dicom_adapter.runtime import structlog_without_extras  # noqa: F401 - before anything loads structlog

# isort: split
import json
import os
import sys
import threading

import structlog
from setproctitle import setproctitle

from dicom_adapter.ledger.health import SERVICE
from dicom_adapter.runtime import logs
from dicom_adapter.runtime.descriptors import raise_descriptor_limit
from dicom_adapter.runtime.logs.capture import capture
from dicom_adapter.service.announcement import announce
from dicom_adapter.service.blueprint import Blueprint
from dicom_adapter.service.service_manager import ServiceManager
from dicom_adapter.service.supervisor import CannotStart, Supervisor

log = structlog.get_logger("dicom_adapter.service")


def main() -> None:
    """Read the blueprint from the file descriptor, and supervise the processes until the service stops."""
    with os.fdopen(int(sys.argv[1]), encoding="utf-8") as file:
        file.seek(0)
        blueprint = Blueprint.from_json(json.load(file))
    setproctitle(blueprint.title_of(SERVICE))
    raise_descriptor_limit()  # the children inherit it
    logs.configure(style=blueprint.log_style, level=blueprint.log_level, process="service")
    capture()
    announce(blueprint.path, blueprint.ledger_url)  # the descriptor stays open until this process ends
    supervisor = Supervisor(blueprint, manager=ServiceManager.of_environment(os.environ))
    if blueprint.stop_with_stdin:
        threading.Thread(target=_stop_with_stdin, args=(supervisor,), daemon=True).start()
    try:
        supervisor.run()
    except CannotStart as refusal:
        if blueprint.log_style == "json":  # every line is an event
            log.error("service_not_started", reason=str(refusal))
        else:
            logs.write_line(f"error: {refusal}")
        sys.exit(1)


def _stop_with_stdin(supervisor: Supervisor) -> None:
    while os.read(0, 4096):
        pass
    supervisor.stop()


if __name__ == "__main__":
    main()
