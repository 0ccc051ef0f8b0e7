"""The gRPC channel of a submitter: created once, connected by the first call, and reconnected by later calls."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from dicom_adapter import ConfigurationError
from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings, ClaraTls

LONGEST_ANSWER_BYTES = 8 << 20  # a job can have 4 MB of metadata
KEEPALIVE_ANSWER_MS = 20_000  # also the limit for a TCP acknowledgement, so that a lost platform is detected
CONNECT_MS = 10_000  # for one attempt to connect
RECONNECT_MS = (1_000, 5_000)  # between attempts; gRPC's default of two minutes is longer than the core's pauses
USER_AGENT = "dicom-adapter-clara-client"


def open_channel(settings: ClaraGrpcSettings) -> grpc.Channel:
    """Return a channel that is not connected yet. Raises ConfigurationError if a certificate file cannot be used."""
    target = f"dns:///{settings.endpoint}"  # with a scheme, because a host may be named `unix`
    tls = ClaraTls() if settings.tls is True else settings.tls
    options = _options(settings)
    if not tls:
        return grpc.insecure_channel(target, options)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return grpc.secure_channel(target, _credentials(tls), options)


def _options(settings: ClaraGrpcSettings) -> list[tuple[str, str | int]]:
    first, most = RECONNECT_MS
    return [
        ("grpc.primary_user_agent", USER_AGENT),
        ("grpc.max_receive_message_length", LONGEST_ANSWER_BYTES),
        ("grpc.keepalive_time_ms", round(settings.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_MS),
        ("grpc.enable_retries", 0),  # the core repeats steps and marks them as repeated
        ("grpc.service_config_disable_resolution", 1),  # DNS records could enable retries again
        ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
        ("grpc.initial_reconnect_backoff_ms", first),
        ("grpc.max_reconnect_backoff_ms", most),
        ("grpc.use_local_subchannel_pool", 1),  # not shared with other channels; closed with this one
        ("grpc.enable_http_proxy", 0),  # an environment variable must not redirect patient data
    ]


def _credentials(tls: ClaraTls) -> grpc.ChannelCredentials:
    _check(tls)
    key = tls.client_key or tls.client_certificate
    return grpc.ssl_channel_credentials(_content(tls.ca_file), _content(key), _content(tls.client_certificate))


def _check(tls: ClaraTls) -> None:
    """Check the files. gRPC does not report unusable files: each call would fail without a reason."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if tls.ca_file:
            context.load_verify_locations(tls.ca_file)
        if tls.client_certificate:
            # Without a password argument, OpenSSL would ask for a password on the terminal.
            context.load_cert_chain(tls.client_certificate, tls.client_key, password=lambda: "")
    except (OSError, ValueError) as failure:  # ssl.SSLError is an OSError
        files = ", ".join(str(file) for file in (tls.ca_file, tls.client_certificate, tls.client_key) if file)
        reason = f"one of the files cannot be used ({failure.__class__.__name__}: {failure})"
        raise ConfigurationError([f"tls: {reason}; must be PEM, the key without a password: {files}"]) from failure


def _content(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()
