"""Each process of the service imports only what it needs: libraries are most of its memory, and of its start."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys
{imports}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules if sys.modules[name] is not None}})))
"""
# No process imports these at its start: the host imports them when its configuration needs them.
ONLY_WHERE_USED = {
    "alembic",
    "apprise",
    "grpc",
    "httpcore",
    "httpx",
    "jinja2",
    "litestar",
    "prometheus_client",
    "pynetdicom",
    "requests",
    "rich",
}


def libraries_of(imports: str) -> set[str]:
    """Return the top-level modules that are loaded after these imports."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(imports=imports)], capture_output=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_service_imports_no_libraries_of_dicom_and_no_plugins() -> None:
    """Its memory is that of an interpreter, its log and the driver of the ledger."""
    loaded = libraries_of("import dicom_adapter.service.__main__")
    assert set() == loaded & {
        *ONLY_WHERE_USED,
        "asyncio",
        "cattrs",
        "greenlet",
        "numpy",
        "pydicom",
        "sqlalchemy",
        "ssl",
    }
    assert [] == [name for name in loaded if name.startswith("dicom_adapter_")]


def test_a_receiver_imports_no_libraries_of_submitters_and_processors() -> None:
    """Verified to fail when pydicom imports requests."""
    imports = (
        "import dicom_adapter.receiver.__main__\nfrom dicom_adapter.plugins.registry import discover\ndiscover(only=[])"
    )
    loaded = libraries_of(imports)
    assert set() == loaded & {*ONLY_WHERE_USED, "numpy"}
    assert [] == [name for name in loaded if name.startswith("dicom_adapter_")]


def test_the_host_imports_no_library_that_only_a_submitter_or_the_http_server_needs() -> None:
    """The host knows the components of all plugins, also of those that its configuration does not use.

    Verified to fail when a submitter of the Clara plugin imports httpx or gRPC before it is opened.
    """
    imports = "import dicom_adapter.host.__main__\nfrom dicom_adapter.plugins.registry import discover\ndiscover()"
    loaded = libraries_of(imports)
    assert "dicom_adapter_clara_client" in loaded
    assert set() == loaded & ONLY_WHERE_USED
