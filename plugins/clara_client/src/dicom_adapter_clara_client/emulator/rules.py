"""Rules of the platform for requests, and the errors of requests that violate them. Pure functions.

NVIDIA documents the rules for identifiers, metadata and states. The rules for job names (those of NVIDIA's own adapter)
and for file names (safe as paths; no name is both a file and a folder) are not documented, but decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from uuid import uuid4

from dicom_adapter_clara_client.emulator.values import ClaraPipeline, PipelineFile
from dicom_adapter_clara_client.wire.codes import ClaraCode

IDENTIFIER = re.compile(r"[0-9a-fA-F]{32}")
JOB_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# The name in a pipeline's definition, which is YAML.
PIPELINE_NAME = re.compile(r"^name:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
JOB_NAME_CHARACTERS = 63  # limit of a DNS label: Kubernetes uses the name as one
KEY_BYTES = 128  # maximum length of a metadata key in UTF-8
VALUE_BYTES = 256  # maximum length of a metadata value in UTF-8
METADATA_BYTES = 4 << 20  # documented as 4 MB
PATH_BYTES = 2048  # maximum length of a file's name with its folders
SEGMENT_BYTES = 255  # limit of Linux file systems


class ClaraError(Exception):
    """The platform refuses a call, or fails. `code` and `messages` are for the response header."""

    def __init__(self, code: ClaraCode, *messages: str) -> None:
        super().__init__("; ".join(messages) or code.name)
        self.code = code
        self.messages = messages


class MalformedId(ClaraError):
    """The value is not a valid identifier."""


class NotFound(ClaraError):
    """The pipeline, job, payload or file does not exist."""


class InvalidValue(ClaraError):
    """A name, metadata, a definition or a path violates a rule."""


class Conflict(ClaraError):
    """The current state does not allow the call: for example, the job is not pending, or the key or name exists."""


class PlatformFailure(ClaraError):
    """The platform failed; the request was valid."""


def new_id() -> str:
    """Return a new identifier."""
    return uuid4().hex


def identifier(text: str, what: str, code: ClaraCode) -> str:
    """Return an identifier in lower case, because identifiers are compared without case."""
    if not IDENTIFIER.fullmatch(text):
        raise MalformedId(code, f"{what} id {text[:64]!r} must be 32 hexadecimal digits without dashes")
    return text.lower()


def check_job_name(name: str) -> None:
    """Raise InvalidValue unless the name is 1 to 63 of a-z, 0-9 and single dashes, none at either end."""
    if len(name) > JOB_NAME_CHARACTERS or not JOB_NAME.fullmatch(name):
        rule = f"1 to {JOB_NAME_CHARACTERS} of a-z, 0-9 and single dashes that are not at the ends"
        raise InvalidValue(ClaraCode.JOB_NAME_INVALID, f"job name {name[:80]!r} must be {rule}")


def with_metadata(present: Mapping[str, str], added: Iterable[tuple[str, str]], code: ClaraCode) -> dict[str, str]:
    """Return the metadata after an addition. Raises Conflict if a key is present already (compared without case)."""
    together = dict(present)
    known = {key.lower() for key in present}
    for key, value in added:
        _check_sizes(key, value, code)
        if key.lower() in known:
            raise Conflict(code, f"metadata key {key!r} is present already (case is ignored): nothing was added")
        known.add(key.lower())
        together[key] = value
    if sum(_bytes(key) + _bytes(value) for key, value in together.items()) > METADATA_BYTES:
        raise InvalidValue(code, f"all metadata together must have at most {METADATA_BYTES} bytes: nothing was added")
    return together


def without_metadata(present: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    """Return the metadata after a removal; missing keys are ignored."""
    removed = {key.lower() for key in keys}
    return {key: value for key, value in present.items() if key.lower() not in removed}


def _check_sizes(key: str, value: str, code: ClaraCode) -> None:
    if _bytes(key) > KEY_BYTES:
        raise InvalidValue(code, f"metadata key {key[:40]!r}… must have at most {KEY_BYTES} bytes, has {_bytes(key)}")
    if _bytes(value) > VALUE_BYTES:
        rule = f"must have at most {VALUE_BYTES} bytes, has {_bytes(value)}"
        raise InvalidValue(code, f"the value of metadata key {key!r} {rule}")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def stored_name(name: str) -> str:
    """Return the normalized name of a file to store: relative, safe as a path, without empty and `.` segments."""
    if name.startswith("/"):
        raise _bad_name("must be relative")
    return read_name(name)


def read_name(name: str) -> str:
    """Return the normalized name of a file to look up; leading `/` are ignored."""
    segments = [segment for segment in name.split("/") if segment not in ("", ".")]
    if not segments or name.endswith("/"):
        raise _bad_name("must name a file")
    if ".." in segments:
        raise _bad_name("must not contain '..'")
    _check_characters("/".join(segments), segments)
    return "/".join(segments)


def _check_characters(name: str, segments: Sequence[str]) -> None:
    if any(ord(character) < 0x20 or 0xD800 <= ord(character) < 0xE000 for character in name):
        raise _bad_name("must not contain control characters or surrogates")
    if _bytes(name) > PATH_BYTES or any(_bytes(segment) > SEGMENT_BYTES for segment in segments):
        raise _bad_name(f"must have at most {PATH_BYTES} bytes, {SEGMENT_BYTES} between two slashes")


def _bad_name(rule: str) -> InvalidValue:
    """Return the error without the name, which may contain a patient's id."""
    return InvalidValue(ClaraCode.FILE_NAME_INVALID, f"a file's name {rule}")


def joined_definition(pieces: Iterable[PipelineFile]) -> tuple[PipelineFile, ...]:
    """Return the files of a definition; pieces with the same path (compared without case) form one file."""
    files: dict[str, PipelineFile] = {}
    for piece in pieces:
        before = files.get(piece.path.lower(), PipelineFile(path=piece.path, content=""))
        files[piece.path.lower()] = PipelineFile(path=before.path, content=before.content + piece.content)
    if not files:
        raise InvalidValue(ClaraCode.DEFINITION_MALFORMED, "a pipeline's definition must have at least one file")
    if any(not file.path or not file.content.strip() for file in files.values()):
        raise InvalidValue(ClaraCode.DEFINITION_MALFORMED, "every file of a definition must have a path and a content")
    return tuple(files.values())


def pipeline(pipeline_id: str, pieces: Iterable[PipelineFile], metadata: Mapping[str, str]) -> ClaraPipeline:
    """Return a pipeline with this definition and the name in it."""
    files = joined_definition(pieces)
    named = next(filter(None, (PIPELINE_NAME.search(file.content) for file in files)), None)
    name = named[1].strip("\"'") if named else pipeline_id
    return ClaraPipeline(pipeline_id=pipeline_id, name=name, metadata=metadata, files=files)
