"""Certificates for tests: a certificate authority and the certificates that it issues, as PEM files."""

from __future__ import annotations

from pathlib import Path

import trustme
from attrs import field, frozen
from trustme import KeyType


@frozen
class Pki:
    """A certificate authority with a folder for its files."""

    folder: Path
    key_type: KeyType = KeyType.ECDSA
    ca: trustme.CA = field(init=False)

    @ca.default
    def _make(self) -> trustme.CA:
        self.folder.mkdir(exist_ok=True)
        return trustme.CA(key_type=self.key_type)

    @property
    def authority(self) -> Path:
        """The certificate of the authority."""
        path = self.folder / "ca.pem"
        write(path, self.ca.cert_pem)
        return path

    def issue(self, name: str, *identities: str, common_name: str | None = None) -> tuple[Path, Path]:
        """Write a certificate and its key, or replace them, and return their paths."""
        issued = self.ca.issue_cert(*identities, common_name=common_name, key_type=self.key_type)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        write(certificate, *issued.cert_chain_pems)
        write(key, issued.private_key_pem)
        return certificate, key

    def adapter(self) -> tuple[Path, Path]:
        """Issue a certificate for a service on this machine."""
        return self.issue("adapter", "127.0.0.1", "localhost")


def write(path: Path, *blobs: trustme.Blob) -> None:
    """Replace the file atomically, like a renewal of certificates: readers never see a partial file."""
    new = path.with_suffix(path.suffix + ".new")
    new.write_bytes(b"".join(blob.bytes() for blob in blobs))
    new.replace(path)
