"""Step 6 (`results`) of the flow: names of files for attachments. All functions are pure.

A pipeline chooses the names of its outputs, and may choose `../x`, a name that a file share does not accept, or the
same name twice in different folders. Readers of delivered files must still recognize the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 100  # characters
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
ENDING = re.compile(r"\.[A-Za-z0-9]{1,8}(\.gz)?\Z")
# Names without their endings that Windows does not accept, also on file shares
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
TAKEN = frozenset({"manifest.json"})  # the list of delivered files
UNNAMED = "attachment"
OF_DICOM = ".dcm"  # only instances have this ending


def file_names(names: Iterable[str]) -> list[str]:
    """Return a name of a file for each name of an output. No two are the same, also if case is ignored."""
    taken = set(TAKEN)
    numbers: dict[str, int] = {}
    found = []
    for name in names:
        chosen = _free(_plain(name), taken, numbers)
        taken.add(chosen.lower())
        found.append(chosen)
    return found


def _plain(name: str) -> str:
    """Return a name of a file, with the folders of the output joined by `-`."""
    plain = NOT_IN_NAMES.sub("-", name)
    match = ENDING.search(plain)
    ending = match[0] if match else ""
    stem = plain[: len(plain) - len(ending)].strip(".-_") or UNNAMED
    if RESERVED.fullmatch(stem):
        stem = f"{UNNAMED}-{stem}"
    stem = stem[:LONGEST].rstrip(".-_")
    # Compared only now: what follows the ending of the output, such as a space, may have been removed.
    return f"{stem}{ending}.bin" if f"{stem}{ending}".lower().endswith(OF_DICOM) else f"{stem}{ending}"


def _free(name: str, taken: set[str], numbers: dict[str, int]) -> str:
    """Return the name, with a number if it is taken, and not longer than a name may be.

    `numbers` has the last number of each name: thousands of outputs may get the same name.
    """
    match = ENDING.search(name)
    ending = match[0] if match else ""
    stem = name[: len(name) - len(ending)]
    number = numbers.get(name.lower(), 0)
    while True:
        number += 1
        suffix = f"-{number}{ending}" if number > 1 else ending
        candidate = f"{stem[: LONGEST - len(suffix)].rstrip('.-_')}{suffix}"
        if candidate.lower() not in taken:
            numbers[name.lower()] = number
            return candidate
