"""The table of operations in `docs/how-to/admin-api.md`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast

from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.admin.api import admin_routes
from dicom_adapter.web.admin.commands import Audits
from dicom_adapter.web.site import Site

HEAD = "| operation | role | meaning |\n|---|---|---|\n"
TABLE = re.compile(r"^\| operation \| role \|.*\n(?:\|.*\n)*", re.MULTILINE)


def operations_updated(text: str) -> str:
    """Return the page with an updated table."""
    if len(TABLE.findall(text)) != 1:
        raise ValueError("docs/how-to/admin-api.md needs one table of operations")
    return TABLE.sub(lambda _: HEAD + "".join(_rows()), text)


def _rows() -> Iterator[str]:
    """Yield a row for each operation. Its handler is not called, so it needs no service."""
    site = cast("Site", _Nothing())
    for handler in admin_routes(site, Access(HttpConfig()), Audits(path="", now=datetime.now)):
        for path in sorted(handler.paths):
            plain = re.sub(r"{(\w+):\w+}", lambda match: f"<{_words(match[1])}>", path)
            (method,) = sorted(handler.http_methods - {"HEAD", "OPTIONS"})
            yield f"| `{method} {plain}` | {handler.opt['role']} | {handler.summary} |\n"


def _words(name: str) -> str:
    return {"job_id": "job", "number": "id", "ae_title": "AE title"}.get(name, name)


class _Nothing:
    """An object whose attributes are objects of this class."""

    def __getattr__(self, _name: str) -> Any:
        return self
