"""Pages of lists: a cursor is the place at which the next page begins.

Cursors are opaque to clients. They contain the name of the list and a number, and both are checked when a cursor comes
back. So a wrong cursor is an error, and not another page.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from litestar.exceptions import ClientException
from litestar.params import QueryParameter

MAX_PAGE = 500  # number of items
USUAL_PAGE = 50
LARGEST = 2**63 - 1  # number of a row in the ledger
# In Python, `$` also matches before a newline at the end; in JSON Schema it does not. This pattern is the same in both.
END = r"$(?!\n)"
CURSOR = re.compile(r"([a-z]+):([0-9]{1,19})")
Item = TypeVar("Item")

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="Maximum number of items")]
After = Annotated[
    str | None,
    QueryParameter(
        pattern=rf"^[A-Za-z0-9_-]{{1,64}}{END}", description="The member `next` of the page before; omit for the first"
    ),
]


def cursor(name: str, number: int) -> str:
    """Return the cursor of a list that continues at a number."""
    return base64.urlsafe_b64encode(f"{name}:{number}".encode()).decode().rstrip("=")


def number_in(name: str, after: str | None) -> int | None:
    """Return the number in a cursor of this list; None if there is no cursor. Raises ClientException (status 400)."""
    if after is None:
        return None
    try:
        text = base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    match = CURSOR.fullmatch(text)
    if match is None or match[1] != name or int(match[2]) > LARGEST:
        raise ClientException("`after` must be the member `next` of a page of the same list.")
    return int(match[2])


def split(found: Sequence[Item], limit: int, name: str, number: Callable[[Item], int]) -> tuple[list[Item], str | None]:
    """Return the items of a page, and the cursor of the next page.

    `found`: the items of the page, and one more item if there is a next page. `number` returns the row number of an
    item.
    """
    page = list(found[:limit])
    return page, cursor(name, number(page[-1])) if len(found) > limit else None
