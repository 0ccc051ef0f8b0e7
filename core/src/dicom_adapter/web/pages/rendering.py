"""Render templates: escaped, with the headers that keep other code and other sites away from a page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import MediaType, Response
from litestar.connection import ASGIConnection

from dicom_adapter import __version__
from dicom_adapter.api.counts import counted
from dicom_adapter.web.access.principal import csrf_token_of, principal_of
from dicom_adapter.web.pages import words

FOLDER = Path(__file__).parent
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@cache
def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Return the content and the media type of each static file, by name."""
    return {
        file.name: (file.read_bytes(), MEDIA_TYPES[file.suffix])
        for file in sorted((FOLDER / "static").iterdir())
        if file.suffix in MEDIA_TYPES
    }


@cache
def static_version() -> str:
    """Return a digest of all static files. It is part of their paths, so browsers may keep them."""
    digest = hashlib.sha256()
    for name, (content, _media_type) in static_files().items():
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()[:16]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": words.size_text,
        "number": words.number_text,
        "tone": words.tone_of,
        "parts": words.text_parts,
        "iso": words.iso_utc,
        "utc": words.utc_text,
    }
    environment.globals |= {
        "static": f"/static/{static_version()}",
        "version": __version__,
        "counted": counted,
    }
    return environment


def fragment(template: str, **values: Any) -> str:
    """Return a rendered template that is part of a page."""
    return _environment().get_template(template).render(values)


def page(
    connection: ASGIConnection[Any, Any, Any, Any], template: str, *, status: int = 200, **values: Any
) -> Response[str]:
    """Return the response with a page."""
    who = principal_of(connection)
    server_time = datetime.now(timezone.utc)  # browsers show ages and countdowns by it, although their clock differs
    path = connection.url.path
    text = fragment(template, who=who, csrf=csrf_token_of(connection), path=path, server_time=server_time, **values)
    return html(text, status)


def html(text: str, status: int = 200) -> Response[str]:
    """Return the response with a page, or part of a page."""
    return Response(text, status_code=status, media_type=MediaType.HTML, headers=HEADERS)
