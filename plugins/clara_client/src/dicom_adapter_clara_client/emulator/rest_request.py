"""REST requests: strict parsing of path, query and JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from enum import Enum
from typing import Any, TypeVar

from attrs import field, frozen

from dicom_adapter_clara_client.emulator.rest_problems import BAD_REQUEST, METADATA_INVALID, ProblemAnswer

EnumT = TypeVar("EnumT", bound=Enum)
LARGEST_BODY_BYTES = 8 << 20  # JSON body: twice the limit of a job's metadata
PAGE_SIZES = range(1, 1001)
DEFAULT_PAGE_SIZE = 100


@frozen(kw_only=True)
class OperationRequest:
    """One request, with its JSON body."""

    method: str
    path: str
    path_parameters: Mapping[str, str]
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(factory=dict, repr=False)  # names in lower case
    body: Mapping[str, Any] = field(factory=dict, repr=False)

    def fingerprint(self) -> str:
        """Return a digest of the request; equal for equal requests."""
        body = json.dumps(self.body, sort_keys=True)
        return hashlib.sha256(f"{self.method} {self.path}\n{body}".encode()).hexdigest()

    # --- the body ---------------------------------------------------------------------------------------------------

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text of the body, which is required if there is no default."""
        value = self.body.get(key, default)
        if not isinstance(value, str):
            raise ProblemAnswer(BAD_REQUEST, f"{key} must be a text")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts of the body; empty if missing."""
        value = self.body.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ProblemAnswer(BAD_REQUEST, f"{key} must be a list of texts")
        return value

    def table(self, key: str) -> dict[str, str]:
        """Return an object of the body whose values are texts; empty if missing."""
        value = self.body.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise ProblemAnswer(BAD_REQUEST, f"{key} must be an object of texts")
        return value

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the body; empty if missing."""
        metadata = self.table("metadata")
        if "" in metadata:
            raise ProblemAnswer(METADATA_INVALID, "a key must have 1 to 128 bytes")
        return metadata

    def objects(self, key: str, *fields: str) -> list[dict[str, str]]:
        """Return a list of objects of the body, each with these texts."""
        value = self.body.get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ProblemAnswer(BAD_REQUEST, f"{key} must be a list of objects")
        if not all(isinstance(item.get(name), str) for item in value for name in fields):
            raise ProblemAnswer(BAD_REQUEST, f"each of {key} must have the texts {', '.join(fields)}")
        return value

    # --- the query --------------------------------------------------------------------------------------------------

    def all_of(self, key: str) -> list[str]:
        """Return all values of a query parameter."""
        return [value for name, value in self.query if name == key]

    def choices(self, key: str, type_: type[EnumT]) -> frozenset[EnumT]:
        """Return all values of a query parameter as members of an enumeration."""
        return frozenset(choice(value, type_, key) for value in self.all_of(key))

    def moment(self, key: str) -> datetime | None:
        """Return a time of the query; None if missing."""
        texts = self.all_of(key)
        if not texts:
            return None
        try:
            # A `+` that the client did not encode is decoded as a space.
            time = datetime.fromisoformat(texts[-1].strip().replace("Z", "+00:00").replace(" ", "+"))
            return time.replace(tzinfo=time.tzinfo or timezone.utc).astimezone(timezone.utc)
        except (ValueError, OverflowError):
            raise ProblemAnswer(BAD_REQUEST, f"{key} must be a time such as 2026-09-01T12:00:00Z") from None

    def page(self, items: Sequence[Any]) -> tuple[Sequence[Any], dict[str, str]]:
        """Return the requested page of `items`, and the member of the response with the token of the next page."""
        size = self._number("pageSize", DEFAULT_PAGE_SIZE)
        start = self._number("pageToken", 0)
        if size not in PAGE_SIZES or start < 0:
            raise ProblemAnswer(
                BAD_REQUEST, "pageSize must be 1 to 1000, pageToken the nextPageToken of the previous page"
            )
        end = start + size
        return items[start:end], {"nextPageToken": str(end)} if end < len(items) else {}

    def _number(self, key: str, default: int) -> int:
        texts = [value for value in self.all_of(key) if value]
        try:
            return int(texts[-1]) if texts else default
        except ValueError:
            raise ProblemAnswer(BAD_REQUEST, f"{key} must be a number") from None


def choice(value: str, type_: type[EnumT], key: str, kind: tuple[str, int, str] = BAD_REQUEST) -> EnumT:
    """Return the member of an enumeration with this value."""
    try:
        return type_(value)
    except ValueError:
        raise ProblemAnswer(kind, f"{key} must be one of {', '.join(str(member.value) for member in type_)}") from None


def json_body(data: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; an empty object for an empty body."""
    if not data.strip():
        return {}
    try:
        document = json.loads(data.decode("utf-8"))
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # raises for surrogates
    except (ValueError, RecursionError):
        raise ProblemAnswer(BAD_REQUEST, "the body must be JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise ProblemAnswer(BAD_REQUEST, "the body must be a JSON object")
    return document
