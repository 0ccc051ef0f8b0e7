"""An SDK of OpenTelemetry for a real service: each process appends its spans to one file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

MODULE = """
import os

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor


class FileProvider(TracerProvider):
    def __init__(self):
        super().__init__()
        file = open(os.environ["SPANS_FILE"], "a", encoding="utf-8")
        exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\\n")
        self.add_span_processor(SimpleSpanProcessor(exporter))
"""
ENTRY_POINT = "[opentelemetry_tracer_provider]\nto-file = spans_to_file:FileProvider\n"


class ExportedSpans:
    """The spans of a service that is started after this object was created."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "spans.jsonl"
        self._file.touch()
        distribution = folder / "sdk" / "spans_to_file-1.dist-info"
        distribution.mkdir(parents=True)
        (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: spans-to-file\nVersion: 1\n")
        (distribution / "entry_points.txt").write_text(ENTRY_POINT)
        (folder / "sdk" / "spans_to_file.py").write_text(MODULE)
        path = [str(folder / "sdk"), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "to-file")
        monkeypatch.setenv("SPANS_FILE", str(self._file))

    @property
    def text(self) -> str:
        """All spans, as JSON."""
        return self._file.read_text(encoding="utf-8")

    def spans(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def span_names_by_trace(self) -> dict[str, set[str]]:
        """Return the names of the spans of each trace, by the id of the trace."""
        traces: dict[str, set[str]] = {}
        for span in self.spans():
            traces.setdefault(span["context"]["trace_id"], set()).add(span["name"])
        return traces
