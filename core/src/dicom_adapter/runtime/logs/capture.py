"""Log warnings, unexpected exceptions and the messages of libraries as events: every line of the log is an event.

Exceptions are logged with their kind and place but without their messages, which may quote patient data.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import sys
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import structlog

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.runtime import logs

log = structlog.get_logger("dicom_adapter.libraries")

SILENT = ("pydicom", "pynetdicom")  # not logged: the messages contain attribute values, which may be patient data
INFORMATIVE = ("alembic.runtime.migration",)  # messages of the level INFO are logged, too
MAX_TEXT = 1000  # maximum number of logged characters of a message


def capture() -> None:
    """Log the messages of libraries, warnings and unexpected exceptions of this process as events."""
    capture_libraries()
    warnings.showwarning = _log_warning
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    sys.excepthook = _log_exception
    threading.excepthook = _log_thread_exception
    sys.unraisablehook = _log_unraisable
    faulthandler.enable()  # after a crash in native code: the stack of each thread, without values
    atexit.register(logs.close)


def capture_libraries() -> None:
    """Log the messages that libraries pass to `logging`: warnings, errors, and information of INFORMATIVE loggers."""
    logging.raiseExceptions = False  # True: a message that cannot be formatted would be printed with its values
    root = logging.getLogger()
    root.handlers = [LibraryHandler()]
    root.setLevel(logging.WARNING)
    for name in SILENT:
        logging.getLogger(name).handlers = [logging.NullHandler()]
        logging.getLogger(name).propagate = False
    for name in INFORMATIVE:
        logging.getLogger(name).setLevel(logging.INFO)


class LibraryHandler(logging.Handler):
    """Handler that logs the records of libraries as events."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the first line of the message: further lines may contain patient data.

        If there is an exception, the arguments of the message are omitted: they may quote the text of the exception.
        """
        failure = record.exc_info[1] if record.exc_info else None
        try:
            text = str(record.msg) if failure is not None else record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments do not fit the message, or cannot be shown
            text = str(record.msg)
        fields: dict[str, Any] = {"logger": record.name, "text": text.partition("\n")[0][:MAX_TEXT]}
        if failure is not None:
            fields["error"] = describe_failure(failure)
        if record.levelno >= logging.ERROR:
            log.error("library_message", **fields)
        elif record.levelno >= logging.WARNING:
            log.warning("library_message", **fields)
        else:
            log.info("library_message", **fields)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del message, file, line  # the message may quote a value
    log.warning("library_warning", kind=category.__name__, where=f"{Path(filename).name}:{lineno}")


def _log_exception(_kind: type[BaseException], failure: BaseException, _traceback: TracebackType | None) -> None:
    log.error("exception_uncaught", error=describe_failure(failure))


def _log_thread_exception(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and arguments.exc_type is not SystemExit:
        thread = arguments.thread.name if arguments.thread is not None else ""
        log.error("exception_uncaught", thread=thread, error=describe_failure(arguments.exc_value))


def _log_unraisable(arguments: Any) -> None:
    if arguments.exc_value is not None:
        log.warning("exception_ignored", error=describe_failure(arguments.exc_value))
