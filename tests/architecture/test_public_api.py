"""The public API matches the snapshot, so that each change is intentional and visible in review."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

from public_api import ROOT, SNAPSHOT, describe

SOURCES = ROOT / "core" / "src" / "dicom_adapter"
UPDATE = "If the change is intended, update the snapshot with `make api` and commit it. If it breaks plugins, raise \
API_VERSION in api/hookspecs.py as well."


def changes(source: Path) -> list[str]:
    """Return removed (-) and added (+) lines of the public API in `source`, compared with the snapshot."""
    expected = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    actual = describe(source).splitlines()
    return [
        line for line in difflib.unified_diff(expected, actual, n=0, lineterm="") if line[:2] not in ("--", "++", "@@")
    ]


def test_the_public_api_matches_the_snapshot() -> None:
    """Names, signatures, fields, hooks and fixtures are those of public_api.txt."""
    changed = changes(SOURCES.parent)
    assert not changed, "\n".join(["the public API has changed:", *changed, UPDATE])


CHANGES = [
    ("__init__.py", '    "Waiting",\n', "", "-dicom_adapter.Waiting = class()"),
    ("__init__.py", "__all__ = [\n", '__all__ = [\n    "__version__",\n', "+dicom_adapter.__version__ = "),
    ("testing/__init__.pyi", "write as write", "write as save", "-dicom_adapter.testing.write("),
    ("api/processor.py", "delay: float", "delay: int", "+dicom_adapter.JobProcessorBase.call_later(delay: int, "),
    ("api/submitter.py", "def cancel(", "def abort(", "+dicom_adapter.Submitter.abort(job: Job) -> None"),
    ("api/values.py", "attempts: int = 0", "attempts: int = 1", "-dicom_adapter.Job.attempts: int = 0"),
    (
        "api/hookspecs.py",
        "_job_changed(job:",
        "_job_changed(row:",
        "-dicom_adapter.api.hookspecs.dicom_adapter_job_",
    ),
    ("testing/fixtures.py", "launch_service(", "start_service(", "+dicom_adapter.testing.fixtures.start_service("),
]


def test_each_kind_of_change_is_detected(tmp_path: Path) -> None:
    """Removed and added names, changed signatures, methods, defaults, hooks and fixtures are detected.

    All changes are made at once, because a description of the API takes more than a second.
    """
    source = tmp_path / "dicom_adapter"
    shutil.copytree(SOURCES, source, ignore=shutil.ignore_patterns("__pycache__", "migrations"))
    for file, old, new, _ in CHANGES:
        text = (source / file).read_text(encoding="utf-8")
        assert 1 == text.count(old)
        (source / file).write_text(text.replace(old, new), encoding="utf-8")
    found = changes(tmp_path)
    assert [] == [line for *_, line in CHANGES if not any(each.startswith(line) for each in found)]
