"""Statuses of C-STORE responses (PS3.4 section B.2.3, PS3.7 annex C), and what follows from each.

status                                         the instance is
0x0000                                         delivered
0x0001, 0x0107, 0x0116, 0xBxxx (warnings)      delivered; the warning is logged
0x0111 duplicate SOP instance                  delivered: the node already has it
0x0110 processing failure, 0x0213 resource     sent again later
  limitation, 0xA7xx out of resources, other
  0xAxxx, 0xFE00 cancel
0xA9xx, 0xCxxx, 0x0122, 0x0124 and all others  refused: a repetition would give the same result
"""

from __future__ import annotations

from enum import Enum

SUCCESS = 0x0000
DUPLICATE = 0x0111
WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
TRANSIENT = frozenset({0x0110, 0x0213, 0xFE00})

MEANINGS = {
    0x0001: "requested optional attributes are not supported",
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0107: "attribute list error",
    0x0110: "processing failure",
    DUPLICATE: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0115: "invalid argument value",
    0x0116: "attribute value out of range",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class (warning)",
    0xFE00: "cancelled",
}
RANGES = (  # mask, masked status, meaning
    (0xFF00, 0xA700, "out of resources"),
    (0xFF00, 0xA900, "data set does not match SOP class"),
    (0xF000, 0xC000, "cannot understand"),
)


class StoreVerdict(Enum):
    """The meaning of a status for the instance."""

    DELIVERED = "delivered"
    DELIVERED_WITH_WARNING = "delivered with a warning"
    FAILED_FOR_NOW = "failed for now"
    REFUSED = "refused"


def judge(status: int) -> StoreVerdict:
    """Return the verdict on an instance from the status of its C-STORE response."""
    if status in (SUCCESS, DUPLICATE):
        return StoreVerdict.DELIVERED
    if status in WARNINGS or status & 0xF000 == 0xB000:
        return StoreVerdict.DELIVERED_WITH_WARNING
    if status in TRANSIENT or (status & 0xF000 == 0xA000 and status & 0xFF00 != 0xA900):
        return StoreVerdict.FAILED_FOR_NOW
    return StoreVerdict.REFUSED


def describe_store_status(status: int) -> str:
    """Return a status with its meaning."""
    meaning = MEANINGS.get(status, "")
    for mask, value, text in RANGES:
        if not meaning and status & mask == value:
            meaning = text
    return f"0x{status:04X} ({meaning or 'unknown status'})"
