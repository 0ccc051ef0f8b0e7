"""The text of the configuration that `dicom-adapter init` writes, with comments."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import PurePath

from attrs import frozen

from dicom_adapter.config.toml_text import toml_name
from dicom_adapter.net.address import Address

COMMENTS_AT = 36  # column of the comments beside values
LONGEST_ID = 40  # maximum number of characters of a pipeline id
# Programs that run a script: then the name of the script becomes the pipeline id
INTERPRETER = re.compile(r"(?:python|bash|sh|perl|Rscript|julia|java)[0-9.]*")
EXAMPLE_ID = "example"
EXAMPLE_MODULE = "dicom_adapter_pipelines.example"


class PipelineKind(str, Enum):
    """The way in which a pipeline runs: the submitter's type."""

    COMMAND = "command"
    IMAGE = "container"


def example_pipeline() -> list[str]:
    """Return the command of the example pipeline, with the Python of this process."""
    return [sys.executable, "-m", EXAMPLE_MODULE, "{input}", "{output}"]


def pipeline_id(kind: PipelineKind, pipeline: Sequence[str]) -> str:
    """Return an id that is also a bare key of TOML: the name of the image, or of the program or its script."""
    if EXAMPLE_MODULE in pipeline:
        return EXAMPLE_ID
    name = PurePath(pipeline[0]).name
    if kind is PipelineKind.IMAGE:
        name = re.split("[:@]", name)[0]
    else:
        scripts = [word for word in pipeline[1:] if not word.startswith("-")]
        is_interpreter = INTERPRETER.fullmatch(name) is not None and scripts
        name = PurePath(scripts[0] if is_interpreter else name).stem
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST_ID].rstrip("-") or "pipeline"


@frozen(kw_only=True)
class NewConfiguration:
    """The values of a new configuration."""

    ae_titles: Sequence[str]
    port: int
    kind: PipelineKind
    pipeline: Sequence[str]  # the command, or the name of the image
    pipeline_id: str
    pacs: Address | None  # the destination of results
    data: str  # data folder

    def text(self) -> str:
        """Return the content of the file."""
        parts = [self._top(), self._pipelines(), self._pacs(), *map(self._ae_title, self.ae_titles)]
        return "\n".join(line for part in parts for line in [*part, ""])

    def _top(self) -> Iterator[str]:
        yield "# Configuration of dicom-adapter. `dicom-adapter check` reports mistakes."
        yield "# `dicom-adapter reload --apply` applies changes to the running service."
        yield ""
        yield _line("default-submitter", "pipelines", "for the jobs of all AE titles")
        yield ""
        yield "[dicom]"
        yield _line("port", self.port, "TCP port, on all network interfaces")
        yield _line("# bind", "127.0.0.1", "listen on this address only")
        yield ""
        yield "[storage]"
        yield _line("path", self.data, "data folder; a relative path starts at the folder of this file")
        yield _line("# reserve", "5 GB", "associations are rejected if less space is free")

    def _pipelines(self) -> Iterator[str]:
        yield "# Pipelines on this machine. A table [submitters.pipelines.pipelines.<id>] describes each of them."
        yield "[submitters.pipelines]"
        is_command = self.kind is PipelineKind.COMMAND
        yield _line("type", self.kind.value, f"runs a {'command' if is_command else 'container'} for each job")
        yield _line("status-every", 1, "seconds between two status checks of a running job")
        yield ""
        yield f"[{toml_name(('submitters', 'pipelines', 'pipelines', self.pipeline_id))}]"
        if self.pipeline_id == EXAMPLE_ID:
            yield "# The example makes an image and a report for each study. They are no diagnosis."
        if is_command:
            yield "# {input} and {output} are folders of the job, also in DICOM_ADAPTER_INPUT and DICOM_ADAPTER_OUTPUT."
            yield f"command = {_value(list(self.pipeline))}"
        else:
            yield "# The container reads /input and writes /output. It has no network."
            yield _line("image", self.pipeline[0], "")
            yield _line("# contract", "map", "for a MONAI Application Package; or mercure")
            yield _line("# memory", "16 GB", "limit of its memory")
        yield _line("time-limit", 3600, "seconds; a job that runs longer has failed")

    def _pacs(self) -> Iterator[str]:
        address = self.pacs or Address(ae_title="PACS", host="pacs.example", port=104)
        lines = [
            "[submitters.pacs]",
            _line("type", "dicom", "sends results with C-STORE"),
            _line("host", address.host, ""),
            _line("port", address.port, ""),
            _line("ae-title", address.ae_title, ""),
            _line("# calling-ae-title", "DICOM-ADAPTER", "many PACS accept only AE titles that they know"),
        ]
        if self.pacs is not None:
            yield "# The DICOM node that gets the results."
            yield from lines
        else:
            yield "# A DICOM node that gets the results. Without one, `dicom-adapter results` lists and exports them."
            yield from (f"# {line.removeprefix('# ')}" for line in lines)

    def _ae_title(self, ae_title: str) -> Iterator[str]:
        yield f"[{toml_name(('ae-titles', ae_title))}]"
        yield _line("# allowed-callers", ["CT1"], "calling AE titles; if omitted, every caller is allowed")
        yield ""
        yield f"[{toml_name(('ae-titles', ae_title, 'settings'))}]"
        yield _line("group-by", "study", "each study becomes a job")
        yield _line("timeout", 10, "seconds without a new instance after which a study becomes a job")
        yield _line(f"pipeline-{self.pipeline_id}", self.pipeline_id, "the pipeline's id")
        yield ""
        results = f"[{toml_name(('ae-titles', ae_title, 'results'))}]"
        prefix = "" if self.pacs else "# "
        yield f"{prefix}{results}"
        yield _line(f"{prefix}to", ["pacs"], "destinations of the results")


def _line(key: str, value: str | int | list[str], comment: str) -> str:
    text = f"{key} = {_value(value)}"
    return f"{text:<{COMMENTS_AT - 1}} # {comment}" if comment else text


def _value(value: str | int | list[str]) -> str:
    """Return a value as TOML. A basic string of TOML has the escapes of JSON; DEL has to be escaped, too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
