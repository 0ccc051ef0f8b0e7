"""A pytest plugin with the fixture `platform_emulator`, a platform on free local ports. Registered on installation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

if TYPE_CHECKING:
    from dicom_adapter_clara_client.emulator import CallLog, EmulatedPlatform, Faults


@frozen(kw_only=True)
class PlatformEmulator:
    """An emulated platform that is served over gRPC and REST at the same time."""

    platform: EmulatedPlatform
    faults: Faults
    log: CallLog
    grpc: str  # host:port
    rest: str  # URL


@pytest.fixture
def platform_emulator(tmp_path: Path) -> Iterator[PlatformEmulator]:
    """Emulated platform that accepts every pipeline id and stores jobs in the test's temporary folder."""
    from dicom_adapter_clara_client.emulator import CallLog, EmulatedPlatform, Faults, grpc_server, rest_server

    platform, faults, log = EmulatedPlatform(folder=tmp_path / "emulator", pipelines="any"), Faults(), CallLog()
    with (
        grpc_server.serve(platform, faults=faults, log=log) as grpc,
        rest_server.serve(platform, faults=faults, log=log) as rest,
    ):
        yield PlatformEmulator(platform=platform, faults=faults, log=log, grpc=grpc.address, rest=rest.url)
