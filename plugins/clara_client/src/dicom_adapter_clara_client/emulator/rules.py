"""Rules of the platform for requests, and the errors for requests that break them. Pure functions.

Documented by NVIDIA: identifiers, metadata, what may be done in which state. Decided here, since no source says it:
the rule of a job's name (the one that NVIDIA's own adapter keeps to), which file names are safe, that a name cannot be
a file and a folder at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from uuid import uuid4

from dicom_adapter_clara_client.emulator.values import ClaraPipeline, PipelineFile
from dicom_adapter_clara_client.wire.codes import ClaraCode

IDENTIFIER = re.compile(r"[0-9a-fA-F]{32}")
JOB_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
PIPELINE_NAME = re.compile(r"^name:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)  # of its definition, which is YAML
JOB_NAME_CHARACTERS = 63  # a label of DNS, which Kubernetes makes of it
KEY_BYTES = 128
VALUE_BYTES = 256
METADATA_BYTES = 4 << 20  # documented as 4 MB
PATH_BYTES = 2048
SEGMENT_BYTES = 255  # what Linux file systems take


class ClaraError(Exception):
    """The platform refuses a call or fails in it; `code` and `messages` are those of the response header."""

    def __init__(self, code: ClaraCode, *messages: str) -> None:
        super().__init__("; ".join(messages) or code.name)
        self.code = code
        self.messages = messages


class MalformedId(ClaraError):
    """What was sent cannot be an identifier."""


class NotFound(ClaraError):
    """There is no such pipeline, job, payload or file."""


class InvalidValue(ClaraError):
    """A value breaks a rule: a name, metadata, a definition, a path."""


class Conflict(ClaraError):
    """The call would be right at another time: the job is not pending, the key or name is taken."""


class PlatformFailure(ClaraError):
    """The platform failed; the client did nothing wrong."""


def new_id() -> str:
    """A fresh identifier."""
    return uuid4().hex


def identifier(text: str, what: str, code: ClaraCode) -> str:
    """An identifier in lower case: 32 hexadecimal digits, compared without case."""
    if not IDENTIFIER.fullmatch(text):
        raise MalformedId(code, f"{what} id {text[:64]!r} must be 32 hexadecimal digits without dashes")
    return text.lower()


def check_job_name(name: str) -> None:
    """1 to 63 of a-z, 0-9 and single dashes, none at either end."""
    if len(name) > JOB_NAME_CHARACTERS or not JOB_NAME.fullmatch(name):
        rule = f"1 to {JOB_NAME_CHARACTERS} of a-z, 0-9 and single dashes that are not at the ends"
        raise InvalidValue(ClaraCode.JOB_NAME_INVALID, f"job name {name[:80]!r} must be {rule}")


def with_metadata(present: Mapping[str, str], added: Iterable[tuple[str, str]], code: ClaraCode) -> dict[str, str]:
    """The whole set after an addition; a key that is there already, ignoring case, refuses all of it."""
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
    """The whole set after a removal; keys that are not there are passed over."""
    gone = {key.lower() for key in keys}
    return {key: value for key, value in present.items() if key.lower() not in gone}


def _check_sizes(key: str, value: str, code: ClaraCode) -> None:
    if _bytes(key) > KEY_BYTES:
        raise InvalidValue(code, f"metadata key {key[:40]!r}… must have at most {KEY_BYTES} bytes, has {_bytes(key)}")
    if _bytes(value) > VALUE_BYTES:
        rule = f"must have at most {VALUE_BYTES} bytes, has {_bytes(value)}"
        raise InvalidValue(code, f"the value of metadata key {key!r} {rule}")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def stored_name(name: str) -> str:
    """A name to store under: relative, safe as a path, without empty and `.` segments."""
    if name.startswith("/"):
        raise _bad_name("must be relative")
    return read_name(name)


def read_name(name: str) -> str:
    """A name to look up; one leading `/` more or less does not matter."""
    segments = [segment for segment in name.split("/") if segment not in ("", ".")]
    if not segments or name.endswith("/"):
        raise _bad_name("must name a file")
    if ".." in segments:
        raise _bad_name("must not have '..' in it")
    _check_characters("/".join(segments), segments)
    return "/".join(segments)


def _check_characters(name: str, segments: Sequence[str]) -> None:
    if any(ord(character) < 0x20 or 0xD800 <= ord(character) < 0xE000 for character in name):
        raise _bad_name("must not have control characters or half characters in it")
    if _bytes(name) > PATH_BYTES or any(_bytes(segment) > SEGMENT_BYTES for segment in segments):
        raise _bad_name(f"must have at most {PATH_BYTES} bytes, {SEGMENT_BYTES} between two slashes")


def _bad_name(rule: str) -> InvalidValue:
    return InvalidValue(
        ClaraCode.FILE_NAME_INVALID, f"a file's name {rule}"
    )  # without the name: it may hold a patient's id


def joined_definition(pieces: Iterable[PipelineFile]) -> tuple[PipelineFile, ...]:
    """The files of a definition: pieces whose paths differ in case at most are one file."""
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
    """A pipeline of this definition, with the name that the definition gives it."""
    files = joined_definition(pieces)
    named = next(filter(None, (PIPELINE_NAME.search(file.content) for file in files)), None)
    name = named[1].strip("\"'") if named else pipeline_id
    return ClaraPipeline(pipeline_id=pipeline_id, name=name, metadata=metadata, files=files)
