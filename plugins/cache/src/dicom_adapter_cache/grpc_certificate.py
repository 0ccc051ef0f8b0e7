"""The certificate of the gRPC server, and its renewal when the files change."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import NoReturn, TypeAlias

import grpc
import structlog

from dicom_adapter import Refused

log = structlog.get_logger("dicom_adapter_cache")

FileStamp: TypeAlias = tuple[int, int, int]  # time of the last change, size, inode


class ServerCertificate:
    """The certificate for new connections. gRPC calls `renewed` before each TLS handshake. Thread-safe."""

    def __init__(self, certificate_file: Path, key_file: Path) -> None:
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._stamps: list[FileStamp | None] = []  # of the files that were read last
        self._lock = threading.Lock()

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files. Raises Refused if they cannot be used."""
        self._stamps = self._read_stamps()
        return grpc.dynamic_ssl_server_credentials(self._read(), self.renewed)  # type: ignore[arg-type] # None is allowed

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new certificate if the files have changed, otherwise None.

        None is also returned if the new files cannot be used: the old certificate stays in use.
        """
        with self._lock:
            stamps = self._read_stamps()
            if stamps == self._stamps:
                return None
            self._stamps = stamps
            configuration, problem = None, ""
            try:
                configuration = self._read()
            except Refused as refusal:
                problem = str(refusal)
            if self._read_stamps() != stamps:
                return None  # the files are being replaced: the next connection reads them again
            if problem:
                log.error("certificate_renewal_failed", reason=problem)
            else:
                log.info("certificates_renewed", certificate=str(self._certificate_file))
            return configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Read and check the files. gRPC reports unusable files without a reason, and only in its own log."""

        def refuse_password() -> NoReturn:  # OpenSSL calls it if the key is encrypted
            raise Refused(f"the private key in {self._key_file} has a password; store it without one")

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            pair = (self._key_file.read_bytes(), self._certificate_file.read_bytes())
            context.load_cert_chain(self._certificate_file, self._key_file, password=refuse_password)
        except ssl.SSLError as failure:
            raise Refused(
                f"no certificate in {self._certificate_file}, no private key in {self._key_file}, or they do not "
                f"belong together; both must be in PEM format ({failure.reason})"
            ) from None
        except OSError as failure:
            raise Refused(f"{failure.filename}: {failure.strerror}") from None
        return grpc.ssl_server_certificate_configuration([pair])

    def _read_stamps(self) -> list[FileStamp | None]:
        return [_stamp(path) for path in (self._certificate_file, self._key_file)]


def _stamp(path: Path) -> FileStamp | None:
    """Return values that change when a file is written or replaced; None if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
