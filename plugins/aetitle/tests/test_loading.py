"""Imports of the plugin: the command line does not import the processor."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from dicom_adapter import cli
sys.argv = ["dicom-adapter", "--help"]
try:
    cli.main()
except SystemExit:
    pass
print("dicom_adapter_aetitle.processor" in sys.modules)
"""


def test_help_does_not_import_the_processor() -> None:
    """Verified to fail when the command line registers the components of all plugins."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert "False" == done.stdout.splitlines()[-1]
