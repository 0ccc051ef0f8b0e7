"""The cache is closed after it could not be opened."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from dicom_adapter import ProcessorContext, Retriable
from dicom_adapter_cache.processor import CacheProcessor
from dicom_adapter_cache.settings import CacheSettings


def test_a_cache_without_its_folder_can_be_closed() -> None:
    """The folder cannot be created while its disk is not mounted.

    Verified to fail when `close` closes a database that does not exist.
    """

    class WithoutDisk:
        ae_title = "CACHE"

        @property
        def data_folder(self) -> Path:
            raise Retriable("mount the disk")

    processor = CacheProcessor(CacheSettings(), cast(ProcessorContext, WithoutDisk()))
    with pytest.raises(Retriable, match="mount the disk"):
        processor.open()
    processor.close()
