"""Identity of an instance: the few attributes that the ledger needs, read while the data set arrives."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Set
from functools import lru_cache
from typing import Any

from attrs import field, frozen
from pydicom.charset import convert_encodings, decode_bytes

from dicom_adapter.api.errors import Refused
from dicom_adapter.dicom.elements import CompleteElementScanner, ElementScanner

UID_GRAMMAR = re.compile(r"[0-9.]{1,64}")
ESCAPE = b"\x1b"  # begins an escape sequence of ISO 2022, which selects another character set
NO_DELIMITERS: frozenset[int] = frozenset()
REPLACEMENT = "\ufffd"  # stands in decoded text for bytes that cannot be decoded

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
PATIENT_ID = 0x00100020
ISSUER_OF_PATIENT_ID = 0x00100021
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
IDENTITY_TAGS = frozenset(
    {
        SPECIFIC_CHARACTER_SET,
        SOP_CLASS_UID,
        SOP_INSTANCE_UID,
        PATIENT_ID,
        ISSUER_OF_PATIENT_ID,
        STUDY_INSTANCE_UID,
        SERIES_INSTANCE_UID,
    }
)
# Attributes by which operators look for a study or recognize it, by the name of their column in the ledger
LOOK_UP_TAGS = {"study_date": 0x00080020, "accession_number": 0x00080050, "modality": 0x00080060}
DESCRIPTION_TAGS = {"study_description": 0x00081030, "series_description": 0x0008103E}
_ALL_LOOK_UP_TAGS = (*LOOK_UP_TAGS.values(), *DESCRIPTION_TAGS.values())  # in the order of LOOK_UP_NAMES
LOOK_UP_NAMES = (*LOOK_UP_TAGS, *DESCRIPTION_TAGS)
WANTED_TAGS = IDENTITY_TAGS.union(LOOK_UP_TAGS.values())
WANTED_TAGS_WITH_DESCRIPTIONS = WANTED_TAGS.union(DESCRIPTION_TAGS.values())
LONGEST_LOOK_UP = 64  # characters; the longest legal value of these attributes (PS3.5 table 6.2-1: LO)
UID_NAMES = {
    "sop_class_uid": SOP_CLASS_UID,
    "sop_instance_uid": SOP_INSTANCE_UID,
    "study_instance_uid": STUDY_INSTANCE_UID,
    "series_instance_uid": SERIES_INSTANCE_UID,
}
UIDS = frozenset(UID_NAMES.values())


class UnreadableDataSet(Refused):
    """The data set cannot be parsed (*cannot understand*)."""


class NotAsNegotiated(UnreadableDataSet):
    """The data set is not encoded as its transfer syntax requires (*cannot understand*)."""


class Mismatch(Refused):
    """The data set contradicts the request or its SOP class (*data set does not match SOP class*)."""


@frozen(kw_only=True)
class Identity:
    """Identifying attributes of an instance, without padding."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str = field(repr=False)
    issuer_of_patient_id: str = field(repr=False)
    look_up: Mapping[str, str] = field(factory=dict, repr=False)  # the values that are not empty, by name


class IdentityReader:
    """Reads the identity from a data set that arrives in pieces. Not thread-safe."""

    def __init__(
        self,
        transfer_syntax_uid: str,
        *,
        accepts_any_encoding: bool = False,
        reads_descriptions: bool = False,
        must_be_complete: bool = False,
    ) -> None:
        """`accepts_any_encoding`: read the data set as it is encoded, and report a difference in `encoding_mismatch`.

        `reads_descriptions`: read the descriptions of study and series, too. `must_be_complete`: scan the data set to
        its end, and refuse it if it is truncated.
        """
        self._must_be_complete = must_be_complete
        self._accepts_any_encoding = accepts_any_encoding
        wanted = WANTED_TAGS_WITH_DESCRIPTIONS if reads_descriptions else WANTED_TAGS
        scanner = CompleteElementScanner if must_be_complete else ElementScanner
        self._scanner = scanner(transfer_syntax_uid, wanted, UIDS, IDENTITY_TAGS)

    @property
    def needs_more(self) -> bool:
        """Return False when the rest of the data set is not needed for the identity."""
        return self._scanner.needs_more

    @property
    def encoding_mismatch(self) -> str:
        """Reason why the data set is not encoded as its transfer syntax requires, or ""."""
        return self._scanner.mismatch

    @property
    def study_instance_uid(self) -> str:
        """The Study Instance UID if it has arrived and is a UID, otherwise ""."""
        text = self._scanner.values.get(STUDY_INSTANCE_UID, b"").rstrip(b"\x00 ").decode("ascii", "replace")
        return text if UID_GRAMMAR.fullmatch(text) else ""

    def feed(self, piece: bytes | memoryview) -> None:
        """Receive the next piece. Its memory may be reused afterwards."""
        self._scanner.feed(piece)

    def identity(self) -> Identity:
        """Return the identity. Call it when `needs_more` is False, or when no more pieces will arrive.

        Raises NotAsNegotiated, UnreadableDataSet, or Mismatch if a UID is missing or malformed (PS3.5 section 9).
        """
        self._scanner.end()
        if self._scanner.mismatch and not self._accepts_any_encoding:
            raise NotAsNegotiated(self._scanner.mismatch)
        if self._scanner.conflict:
            raise UnreadableDataSet(self._scanner.conflict)
        is_sufficient = self._scanner.is_past_wanted or self._scanner.is_complete
        if self._scanner.problem and (self._must_be_complete or not is_sufficient):
            raise UnreadableDataSet(self._scanner.problem)
        if self._scanner.values.keys().isdisjoint(IDENTITY_TAGS):
            raise UnreadableDataSet("the data set has none of the attributes that identify an instance")
        return _identity(self._scanner.values)

    def known(self) -> Identity:
        """Return what is known of the identity of an unusable data set. Values that are missing or malformed are ""."""
        values = self._scanner.values
        uids = {
            name: values.get(tag, b"").rstrip(b"\x00 ").decode("ascii", "replace") for name, tag in UID_NAMES.items()
        }
        known: dict[str, Any] = {name: uid if UID_GRAMMAR.fullmatch(uid) else "" for name, uid in uids.items()}
        charset = values.get(SPECIFIC_CHARACTER_SET, b"")
        return Identity(
            **known,
            patient_id=_text(values.get(PATIENT_ID, b""), charset),
            issuer_of_patient_id=_text(values.get(ISSUER_OF_PATIENT_ID, b""), charset),
        )


def identify(data_set: bytes, transfer_syntax_uid: str) -> Identity:
    """Return the identity of an encoded data set. Raises as `IdentityReader.identity`."""
    reader = IdentityReader(transfer_syntax_uid)
    reader.feed(data_set)
    return reader.identity()


def _identity(values: Mapping[int, bytes]) -> Identity:
    charset = values.get(SPECIFIC_CHARACTER_SET, b"")
    return Identity(
        sop_class_uid=_uid(values, SOP_CLASS_UID, "SOP Class UID"),
        sop_instance_uid=_uid(values, SOP_INSTANCE_UID, "SOP Instance UID"),
        study_instance_uid=_uid(values, STUDY_INSTANCE_UID, "Study Instance UID"),
        series_instance_uid=_uid(values, SERIES_INSTANCE_UID, "Series Instance UID"),
        patient_id=_text(values.get(PATIENT_ID, b""), charset),
        issuer_of_patient_id=_text(values.get(ISSUER_OF_PATIENT_ID, b""), charset),
        look_up=_look_up(charset, *map(values.get, _ALL_LOOK_UP_TAGS)),
    )


@lru_cache(maxsize=256)  # consecutive instances mostly have the same values
def _look_up(charset: bytes, *values: bytes | None) -> Mapping[str, str]:
    texts = [_text(value or b"", charset)[:LONGEST_LOOK_UP] for value in values]
    return {name: text for name, text in zip(LOOK_UP_NAMES, texts, strict=True) if text}


def _uid(values: Mapping[int, bytes], tag: int, title: str) -> str:
    text = values.get(tag, b"").rstrip(b"\x00 ").decode("ascii", "replace")
    if not text:
        raise Mismatch(f"the data set has no {title}")
    if not UID_GRAMMAR.fullmatch(text):
        raise Mismatch(f"the {title} is not a UID: 1 to 64 digits and periods")
    return text


def _text(value: bytes, charset: bytes) -> str:
    value = value.rstrip(b"\x00 ")
    try:
        return value.decode("ascii").strip(" ")
    except UnicodeDecodeError:
        return _decode(value, charset, NO_DELIMITERS).strip(" ")


def decode_text(value: bytes, charset: bytes, delimiters: Set[int]) -> str:
    """Decode text of Specific Character Set `charset`, without padding. Invalid bytes are escaped.

    `delimiters`: codes of the characters after which the first character set is active again (PS3.5 section 6.1.2.5.3).
    """
    value = value.rstrip(b"\x00 ")
    if value.isascii() and ESCAPE not in value:
        return value.decode("ascii").strip(" ")
    return _decode(value, charset, delimiters).strip(" ")


def _decode(value: bytes, charset: bytes, delimiters: Set[int]) -> str:
    """Decode text. Bytes that are invalid in its character set are escaped, so that two IDs never become equal."""
    names = charset.decode("ascii", "replace").rstrip("\x00 ").split("\\")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = decode_bytes(value, convert_encodings(names), set(delimiters))
        text.encode()  # lone surrogates cannot be encoded
    except (LookupError, ValueError):  # pydicom also accepts Python's codecs that are not for text
        text = REPLACEMENT
    return value.decode("ascii", "backslashreplace") if REPLACEMENT in text else text
