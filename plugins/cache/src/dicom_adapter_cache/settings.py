"""The table [ae-titles.<AE title>.settings] of an AE title with `processor = "cache"`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attrs import Attribute, field, frozen
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from dicom_adapter import ByteSize, PipelineReference, Secret, at_least, between, setting
from dicom_adapter_cache.errors import InvalidRequest

DAY_S = 86_400
YEAR_S = 366 * DAY_S
INDEX_FILE = "index.sqlite"
SHORTEST_TOKEN = 16  # characters: shorter tokens can be guessed
TOKEN = re.compile(f"[!-~]{{{SHORTEST_TOKEN},}}")


# The docstring of a validator is shown as the rule in the reference of the settings.
def _url(_instance: Any, _attribute: Attribute[Any], value: str | None) -> None:
    """a SQLAlchemy URL; a SQLite URL must name a file (not `:memory:`)"""

    try:
        url = None if value is None else make_url(value)
    except ArgumentError:
        raise ValueError("must be a URL as SQLAlchemy writes it, such as sqlite:////var/lib/index.sqlite") from None
    if url is not None and url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("must name a file, because several threads open it")


def _address(_instance: Any, _attribute: Attribute[Any], value: str) -> None:
    """an IP address"""

    try:
        ip_address(value)
    except ValueError:
        raise ValueError("must be an IP address, such as 127.0.0.1") from None


def _token(_instance: Any, _attribute: Attribute[Any], value: Secret | None) -> None:
    """at least 16 characters of visible ASCII"""

    if value is not None and not TOKEN.fullmatch(value):
        raise ValueError(f"must have at least {SHORTEST_TOKEN} characters, all of them visible ASCII")


@frozen(kw_only=True)
class GrpcSettings:
    """[ae-titles.<AE title>.settings.grpc]: the gRPC API of this AE title."""

    port: int = setting(
        validator=between(0, 65535),
        help="TCP port; 0 selects any free port; its number is logged (`cache_grpc_listening`).",
    )
    bind: str = setting(
        default="127.0.0.1",
        validator=_address,
        help="IP address to listen on; an address other than loopback requires a token.",
    )
    token: Secret | None = setting(
        default=None,
        validator=_token,
        help="Bearer token that every call must send as metadata `authorization`; default: no token.",
    )
    max_connections: int = setting(
        default=100,
        validator=between(1, 10_000),
        help="Maximum number of open connections. Further ones are closed at once.",
    )
    certificate_file: Path | None = setting(
        default=None,
        help=(
            "PEM file of the server's certificate chain. With `key-file`, connections are encrypted. If the files "
            "change, new connections use the new certificate, without a restart."
        ),
    )
    key_file: Path | None = setting(
        default=None,
        help="PEM file of the certificate's private key, without a password. Required with `certificate-file`.",
    )

    def __attrs_post_init__(self) -> None:
        if self.token is None and not ip_address(self.bind).is_loopback:
            raise ValueError(f"bind = {self.bind} can be reached from other machines, which needs a token: set token")
        if (self.certificate_file is None) is not (self.key_file is None):
            raise ValueError("certificate-file and key-file belong together: set both or neither")


@frozen(kw_only=True)
class CacheSettings:
    """Limits for kept studies, and the pipelines of composed jobs."""

    settle: float = setting(
        default=5.0,
        validator=between(0, DAY_S, "seconds"),
        help="Seconds after a study's last instance during which the study counts as still arriving.",
    )
    max_size: ByteSize | None = setting(
        default=None,
        validator=at_least(1, "byte"),
        help=(
            'Maximum size of the kept instances, in bytes or as a text such as `"500 GB"`. If they use more, the '
            "least recently used study is evicted. Default: unlimited."
        ),
    )
    max_age: float | None = setting(
        default=None,
        validator=between(1, 10 * YEAR_S, "seconds"),
        help="Seconds after a study's last use, after which the study is evicted; default: unlimited.",
    )
    index_url: str | None = setting(
        default=None,
        validator=_url,
        help="URL of the index database in SQLAlchemy form; default: a SQLite file in the adapter's data folder.",
    )
    pipelines: Mapping[str, PipelineReference] = setting(
        factory=dict,
        prefix="pipeline-",
        help=(
            "A pipeline's id, or a table as below. If any pipeline is configured, jobs can use only configured "
            "pipelines; otherwise jobs can use any id."
        ),
    )
    grpc: GrpcSettings | None = setting(default=None, help="Enables the gRPC API. The keys of this table are below.")
    _by_id: Mapping[str, PipelineReference] = field(init=False, repr=False)

    @_by_id.default
    def _collect_ids(self) -> Mapping[str, PipelineReference]:
        return {one.id: one for one in reversed(list(self.pipelines.values()))}  # the first one with an id counts

    def pipeline(self, name: str) -> PipelineReference:
        """Return the pipeline that a job names, by name or by id. Raises InvalidRequest if it is not configured."""
        found = self.pipelines.get(name) or self._by_id.get(name)
        if found is not None:
            return found
        if self.pipelines:
            known = ", ".join(sorted(self.pipelines))
            raise InvalidRequest(f"there is no pipeline {name!r} (there are: {known})", field="pipeline")
        return PipelineReference(id=name)

    def index_location(self, folder: Path) -> URL:
        """Return the URL of the index; `folder` is the AE title's data folder, which may have any name."""
        return make_url(self.index_url) if self.index_url else URL.create("sqlite", database=str(folder / INDEX_FILE))
