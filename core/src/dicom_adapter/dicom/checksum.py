"""CRC-32 (ISO/IEC 8802-3, as in zlib), with CPU instructions where available."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:  # isal has no build for this platform; zlib returns the same values
    from zlib import crc32

__all__ = ["crc32"]
